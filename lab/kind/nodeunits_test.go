package kind

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// A node has keylab's image read by ctr itself where that can, and otherwise by containerd; and a failure of both is one, so that systemd tries again.
func TestImagesUnit(t *testing.T) {
	command := regexp.MustCompile(`(?m)^%sExecStart=/bin/sh -c '(.*)'$`).FindStringSubmatch(imagesUnit)
	if command == nil {
		t.Fatalf("no command in\n%s", imagesUnit)
	}
	script := strings.ReplaceAll(command[1], "$$", "$") // as systemd does (systemd.service(5), "Command lines")
	for name, c := range map[string]struct {
		ctr  string
		want string // what succeeded
	}{
		"ctr that can":    {`exit 0`, "--local " + nodeImage},
		"ctr that cannot": {`case " $* " in *" --local "*) exit 1;; esac`, nodeImage},
		"broken ctr":      {`exit 1`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			fake := fmt.Sprintf("#!/bin/sh\n(%s) || exit 1\necho \"$@\" >%s/did\n", c.ctr, dir)
			if err := os.WriteFile(filepath.Join(dir, "ctr"), []byte(fake), 0o755); err != nil {
				t.Fatal(err)
			}
			run := exec.CommandContext(t.Context(), "/bin/sh", "-c", script)
			run.Env = []string{"PATH=" + dir + ":" + os.Getenv("PATH")}
			out, err := run.CombinedOutput()
			did, _ := os.ReadFile(filepath.Join(dir, "did")) // not there when it failed
			if (err == nil) != (c.want != "") {
				t.Errorf("it ended with %v: %s", err, out)
			}
			if got := strings.TrimSpace(string(did)); c.want != "" && (!strings.Contains(got, "images import ") || !strings.HasSuffix(got, c.want) || strings.Contains(got, "--local") != strings.Contains(c.want, "--local")) {
				t.Errorf("it imported by ctr %q, want one that ends in %q", got, c.want)
			}
		})
	}
}
