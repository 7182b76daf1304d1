//go:build !linux

package main

import "errors"

// chaosMount is for Linux alone.
func chaosMount(string, int) error { return errors.ErrUnsupported }

func chaosUnmount(string) error { return nil }
