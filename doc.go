// Package sluice is the root of the module and holds no code: the program is
// cmd/sluice, and the rooms stand beside this file. floors_test.go says which
// room may import which.
package sluice
