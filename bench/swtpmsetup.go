package bench

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// swtpmSetup is the usual way to make a software TPM with an EK certificate: swtpm's own swtpm_setup with its local CA, whose keys
// are in a folder of the benchmark's.
type swtpmSetup struct {
	dir, program, config, user string
	made                       int
}

// newSwtpmSetup writes the configuration, and makes one TPM that is not measured: with the first one the CA itself is made. The error
// says why swtpm_setup cannot be used here.
func newSwtpmSetup(ctx context.Context, dir string) (*swtpmSetup, error) {
	s := &swtpmSetup{dir: dir, config: filepath.Join(dir, "swtpm_setup.conf")}
	var err error
	if s.program, err = exec.LookPath("swtpm_setup"); err != nil {
		return nil, fmt.Errorf("swtpm_setup is not installed (Debian's package swtpm-tools): %w", err)
	}
	localCA, err := exec.LookPath("swtpm_localca")
	if err != nil {
		return nil, fmt.Errorf("swtpm_localca is not installed (Debian's package swtpm-tools): %w", err)
	}
	// As root it would become another user (tss), who cannot read the folder.
	me, err := user.Current()
	if err != nil {
		return nil, fmt.Errorf("find this user's name: %w", err)
	}
	s.user = me.Username
	if err := os.MkdirAll(filepath.Join(dir, "ca"), 0o700); err != nil {
		return nil, fmt.Errorf("make a folder for swtpm_setup: %w", err)
	}
	ca := filepath.Join(dir, "swtpm-localca.conf")
	options := filepath.Join(dir, "swtpm-localca.options")
	in := func(name string) string { return filepath.Join(dir, "ca", name) }
	files := map[string][]string{
		s.config: {"create_certs_tool = " + localCA, "create_certs_tool_config = " + ca, "create_certs_tool_options = " + options},
		ca:       {"statedir = " + in(""), "signingkey = " + in("signkey.pem"), "issuercert = " + in("issuercert.pem"), "certserial = " + in("certserial")},
		options:  {"--platform-manufacturer keylab", "--platform-version 1.0", "--platform-model bench"},
	}
	for path, lines := range files {
		if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
			return nil, fmt.Errorf("configure swtpm_setup: %w", err)
		}
	}
	_, err = s.makeOne(ctx)
	return s, err
}

// makeOne makes a TPM from nothing and measures that.
func (s *swtpmSetup) makeOne(ctx context.Context) (time.Duration, error) {
	s.made++
	state := filepath.Join(s.dir, "tpm-"+strconv.Itoa(s.made))
	if err := os.Mkdir(state, 0o700); err != nil {
		return 0, fmt.Errorf("make a folder for swtpm_setup: %w", err)
	}
	argv := []string{s.program, "--tpm2", "--tpmstate", state, "--createek", "--create-ek-cert", "--pcr-banks", "-", "--config", s.config, "--runas", s.user}
	began := time.Now()
	out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput()
	took := time.Since(began)
	if err != nil {
		return 0, fmt.Errorf("%w\ncommand: %s\noutput:\n%s", err, strings.Join(argv, " "), out)
	}
	return took, os.RemoveAll(state)
}
