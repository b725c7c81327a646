package kind

import (
	"fmt"
	"os"
	"sync"
	"testing"
)

// What two processes learn of a lab at once is known afterwards, both of it.
func TestLearnSideBySide(t *testing.T) {
	dir, p := planned(t, "")
	if err := os.MkdirAll(dir.Path, 0o700); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	const times = 20
	for _, who := range []string{"one", "other"} {
		l, err := newLab(dir, p)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		all.Go(func() {
			for i := range times {
				if err := l.learnNode(fmt.Sprintf("%s-%d", who, i), func(f *nodeFacts) { f.UUID = who }); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	f, err := readFacts(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(f.Nodes) != 2*times {
		t.Errorf("%d nodes are known, want %d", len(f.Nodes), 2*times)
	}
}
