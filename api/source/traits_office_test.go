package source_test

var traitsOffice = map[string]trait{}
