package source_test

var traitsCertified = map[string]trait{}
