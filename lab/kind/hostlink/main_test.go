package hostlink

import (
	"testing"

	"keylab.dev/keylab/internal/nstest"
)

func TestMain(m *testing.M) { nstest.Main(m, nstest.Options{}) }
