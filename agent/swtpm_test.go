package agent

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// testTPM is a swtpm process of the test's own.
type testTPM struct {
	t     testing.TB
	dir   string
	path  string // unix socket
	mu    sync.Mutex
	cmd   *exec.Cmd
	ended chan struct{} // cmd has ended
	used  chan struct{} // swtpm serves one connection at a time
}

func startTPM(t testing.TB) *testTPM {
	t.Helper()
	if _, err := exec.LookPath("swtpm"); err != nil {
		t.Skip("swtpm is not installed: apt-get install swtpm")
	}
	dir, err := os.MkdirTemp("", "agent-tpm-") // socket paths are short: not t.TempDir
	if err != nil {
		t.Fatal(err)
	}
	tpm := &testTPM{t: t, dir: dir, path: filepath.Join(dir, "sock"), used: make(chan struct{}, 1)}
	t.Cleanup(func() {
		tpm.stop()
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	tpm.start()
	return tpm
}

func (p *testTPM) start() {
	p.t.Helper()
	_ = os.Remove(p.path)
	var output bytes.Buffer
	cmd := exec.Command("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+p.dir,
		"--server", "type=unixio,path="+p.path, "--ctrl", "type=unixio,path="+p.path+".ctrl",
		"--flags", "not-need-init,startup-clear")
	cmd.Stdout, cmd.Stderr = &output, &output
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // if the test crashes
	started, ended := make(chan error), make(chan struct{})
	go func() {
		runtime.LockOSThread() // Pdeathsig is about the thread that started it
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // killed at the end
		}
		close(ended)
	}()
	if err := <-started; err != nil {
		p.t.Fatalf("starting swtpm: %v", err)
	}
	p.mu.Lock()
	p.cmd, p.ended = cmd, ended
	p.mu.Unlock()
	deadline := time.Now().Add(20 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := net.Dial("unix", p.path)
		if err == nil {
			_ = conn.Close()
			break
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("swtpm did not open %s: %v\n%s", p.path, err, output.String())
		}
		<-tick.C
	}
}

func (p *testTPM) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd != nil {
		_ = p.cmd.Process.Kill()
		<-p.ended
		p.cmd = nil
	}
}

// restart is a power cycle: volatile state and connections are lost.
func (p *testTPM) restart() {
	p.t.Helper()
	p.stop()
	p.start()
}

// open is a Config.OpenTPM: one connection per command, so that several clients
// can take turns. Nothing shields them from each other's objects.
func (p *testTPM) open(context.Context) (transport.TPMCloser, error) {
	return &testConn{tpm: p}, nil
}

type testConn struct {
	tpm  *testTPM
	hook func(command tpm2.TPMCC) // before each command
}

func (c *testConn) Send(command []byte) ([]byte, error) {
	if c.hook != nil {
		c.hook(tpm2.TPMCC(binary.BigEndian.Uint32(command[6:])))
	}
	return c.tpm.send(command)
}

func (c *testConn) Close() error { return nil }

func (p *testTPM) send(command []byte) ([]byte, error) {
	p.used <- struct{}{}
	defer func() { <-p.used }()
	conn, err := net.Dial("unix", p.path)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if _, err := conn.Write(command); err != nil {
		return nil, err
	}
	header := make([]byte, 10)
	if _, err := io.ReadFull(conn, header); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(header[2:])
	if size < 10 || size > 1<<16 {
		return nil, fmt.Errorf("TPM answer of %d bytes", size)
	}
	answer := make([]byte, size)
	copy(answer, header)
	_, err = io.ReadFull(conn, answer[10:])
	return answer, err
}
