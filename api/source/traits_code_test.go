package source_test

var traitsCode = map[string]trait{}
