package embedded

// Unpack is unpack, so that hostile archives can be given to it without a server
// that serves them.
var Unpack = unpack

// FetchedIntegrity and UnpackVerified are for the check of an archive's bytes.
var (
	FetchedIntegrity = fetchedIntegrity
	UnpackVerified   = unpackVerified
)
