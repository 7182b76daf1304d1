package harmless

// NotTopLevel is what a test compares with the list of top level domains.
var NotTopLevel = notTopLevel
