package hostlink

import (
	"os"
	"strings"
	"testing"

	"github.com/google/nftables"
)

func synSent(t *testing.T) (n int) {
	data, err := os.ReadFile("/proc/self/net/tcp")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range strings.Split(string(data), "\n") {
		if f := strings.Fields(l); len(f) > 3 && f[3] == "02" {
			n++
		}
	}
	return n
}

func countRules(t *testing.T) (n int, err error) {
	c, err := nftables.New()
	if err != nil {
		return 0, err
	}
	tables, err := c.ListTables()
	for _, tb := range tables {
		if strings.HasPrefix(tb.Name, "keylab-forwarded") {
			n++
		}
	}
	return n, err
}
