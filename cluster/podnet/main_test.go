package podnet

import (
	"testing"

	"keylab.dev/keylab/internal/nstest"
)

// The tests' network namespace is the node.
func TestMain(m *testing.M) { nstest.Main(m, nstest.Options{}) }
