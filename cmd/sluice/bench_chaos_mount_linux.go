package main

import (
	"fmt"
	"syscall"
)

// chaosMount puts a filesystem of so many megabytes, in memory, at a directory. It takes root.
func chaosMount(dir string, megabytes int) error {
	return syscall.Mount("sluice-chaos", dir, "tmpfs", 0, fmt.Sprintf("size=%dm,mode=0755", megabytes))
}

func chaosUnmount(dir string) error { return syscall.Unmount(dir, 0) }
