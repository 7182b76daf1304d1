package main

import (
	"fmt"
	"runtime"
)

// versionCommand prints the version.
type versionCommand struct{}

// Run prints one line.
func (versionCommand) Run(std streams) error {
	_, err := fmt.Fprintf(std.out, "sluice %s %s %s/%s\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}
