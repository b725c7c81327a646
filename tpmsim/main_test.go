package tpmsim

import (
	"os"
	"testing"
)

func TestMain(m *testing.M) {
	MaybeRunChild()
	if os.Getenv(orphanDir) != "" {
		runOrphanParent()
	}
	os.Exit(m.Run())
}
