package jobs

// NextCursor is what a test asks for by itself.
var NextCursor = nextCursor
