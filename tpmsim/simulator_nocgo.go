//go:build !cgo

package tpmsim

func simulatorBuilt() error { return errNoCgo }

func runSimulator(string) error { return errNoCgo }
