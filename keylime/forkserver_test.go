package keylime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// forkServer is one with two libraries and one that is not there.
func forkServer(t *testing.T) *ForkServer {
	t.Helper()
	libraries := filepath.Join(t.TempDir(), "libraries.txt")
	if err := os.WriteFile(libraries, []byte("json\nno_such_library\nasyncio\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := StartForkServer(&Installation{Python: "/usr/bin/python3", Libraries: libraries}, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

// program writes a Python program.
func program(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// forked starts a program, with its output in a file.
func forked(t *testing.T, f *ForkServer, c Command) (p Process, output func() string) {
	t.Helper()
	log := filepath.Join(t.TempDir(), "log")
	out, err := os.Create(log)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if p, err = f.Start(c, Stdio{Out: out, Err: out}); err != nil {
		t.Fatal(err)
	}
	return p, func() string {
		text, err := os.ReadFile(log)
		if err != nil {
			t.Error(err)
		}
		return string(text)
	}
}

// What Python starts by itself and what is forked must not differ, for the program, for who looks at it, and in how it ends.
func TestForkIsTheProgram(t *testing.T) {
	f := forkServer(t)
	text := `
import atexit, os, sys
import beside
atexit.register(print, "at exit")
print(sys.argv, __name__, __file__, sorted(os.environ.items()), os.getcwd(), repr(sys.stdin.read()), os.getpid() == os.getpgid(0), beside.here)
print(open("/proc/self/cmdline", "rb").read().rstrip(b"\0"), sorted(os.listdir("/proc/self/fd"))[:4])
print("to the log", file=sys.stderr)
sys.exit(int(sys.argv[1]))
`
	path := program(t, text)
	if err := os.WriteFile(filepath.Join(filepath.Dir(path), "beside.py"), []byte("here = 'imported from beside the program'\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := Command{Name: "program", Argv: []string{"/usr/bin/python3", path, "3"}, Dir: t.TempDir(),
		Env: []string{"A=1=2", "LANG=C.UTF-8", "PYTHONUNBUFFERED=1", "PYTHONDONTWRITEBYTECODE=1"}}

	log := filepath.Join(t.TempDir(), "log")
	out, err := os.Create(log)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	alone, err := StartCmd(c.Exec(t.Context()), Stdio{Out: out, Err: out})
	if err != nil {
		t.Fatal(err)
	}
	wantEnd := alone.Wait()
	want, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}

	p, output := forked(t, f, c)
	if err := p.Wait(); fmt.Sprint(err) != fmt.Sprint(wantEnd) {
		t.Errorf("ended with %v, want %v", err, wantEnd)
	}
	if got := output(); got != string(want) {
		t.Errorf("as a fork it printed\n%s\nand by itself\n%s", got, want)
	}
}

// Python's logging silences loggers that are there when a program configures it: here those of libraries always are.
func TestForkKeepsLoggersOfLibraries(t *testing.T) {
	f := forkServer(t)
	path := program(t, `
import logging, logging.config, configparser
config = configparser.ConfigParser()
config.read_string("""
[loggers]
keys = root
[handlers]
keys = all
[formatters]
keys =
[logger_root]
level = INFO
handlers = all
[handler_all]
class = StreamHandler
args = (sys.stdout,)
""")
logging.config.fileConfig(config)
logging.getLogger("asyncio").warning("a library's warning")
`)
	p, output := forked(t, f, Command{Argv: []string{"/usr/bin/python3", path}, Dir: "/"})
	if err := p.Wait(); err != nil || output() != "a library's warning\n" {
		t.Errorf("the program ended with %v and printed %q", err, output())
	}
}

func TestForkEnds(t *testing.T) {
	f := forkServer(t)
	for _, c := range []struct{ text, end, says string }{
		{"", "<nil>", ""},
		{"import sys; sys.exit('no luck')", "exit status 1", "no luck"},
		{"raise ValueError('wrong')", "exit status 1", "ValueError: wrong"},
		{"import os, signal; os.kill(os.getpid(), signal.SIGTERM)", "signal: terminated", ""},
		{"import threading, time; threading.Thread(target=lambda: (time.sleep(0.1), print('thread'))).start()", "<nil>", "thread"},
	} {
		p, output := forked(t, f, Command{Argv: []string{"/usr/bin/python3", program(t, c.text)}, Dir: "/"})
		if err := p.Wait(); fmt.Sprint(err) != c.end || !strings.Contains(output(), c.says) {
			t.Errorf("%s: ended with %v and printed %q; want %s and %q", c.text, err, output(), c.end, c.says)
		}
	}
	p, output := forked(t, f, Command{Argv: []string{"/usr/bin/python3", "program"}, Dir: "/no/such/folder"})
	if err := p.Wait(); err == nil || !strings.Contains(output(), "/no/such/folder") {
		t.Errorf("in a folder that is not there: ended with %v and printed %q", err, output())
	}
	if _, err := f.Start(Command{Argv: []string{"/bin/true"}}, Stdio{}); err == nil {
		t.Error("/bin/true was started as if it were Python's")
	}
}

// A service must not go on when nobody would hear of its end.
func TestForkServerThatDies(t *testing.T) {
	f := forkServer(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := r.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	// A program with a child, each of which holds the pipe open while it lives.
	path := program(t, "import os, time\nos.fork()\nprint('.', end='', flush=True)\ntime.sleep(600)\n")
	p, err := f.Start(Command{Argv: []string{"/usr/bin/python3", path}, Dir: "/"}, Stdio{Out: w})
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(r, make([]byte, 2)); err != nil {
		t.Fatalf("wait for the program and its child to run: %v", err)
	}
	if err := SignalGroup(f.process.Pid(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(); !errors.Is(err, ErrForkServerEnded) || !strings.Contains(err.Error(), "killed") {
		t.Errorf("the program ended with %v; want ErrForkServerEnded and why", err)
	}
	if _, err := io.ReadAll(r); err != nil {
		t.Errorf("wait for the end of the program and its child: %v", err)
	}
	if _, err := f.Start(Command{Argv: []string{"/usr/bin/python3", path}, Dir: "/"}, Stdio{}); !errors.Is(err, ErrForkServerEnded) {
		t.Errorf("a start after the server's end: %v; want ErrForkServerEnded", err)
	}
}

func TestForkServerThatCannotStart(t *testing.T) {
	f, err := StartForkServer(&Installation{Python: "/usr/bin/python3", Libraries: "/no/such/file"}, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Start(Command{Argv: []string{"/usr/bin/python3", "-"}, Dir: "/"}, Stdio{}); !errors.Is(err, ErrForkServerEnded) || !strings.Contains(err.Error(), "/no/such/file") {
		t.Errorf("error %v; want ErrForkServerEnded with Python's own words", err)
	}
}

// The real ones: two services and the tenant, each a fork.
func TestForkedKeylime(t *testing.T) {
	kl := configured(t, nil)
	f, err := StartForkServer(kl.Installation, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, c := range []Command{kl.Registrar(), kl.Verifier()} {
		p, output := forked(t, f, c)
		t.Cleanup(func() {
			if t.Failed() {
				t.Logf("log of the %s:\n%s", c.Name, output())
			}
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		go func() {
			if err := p.Wait(); ctx.Err() == nil {
				t.Errorf("the %s ended: %v", c.Name, err)
				cancel()
			}
		}()
		if err := c.Ready(ctx, nil); err != nil {
			t.Fatal(err)
		}
		defer SignalGroup(p.Pid(), syscall.SIGKILL)
		defer cancel()
	}
	en := enroller(t, kl, EnrollerOptions{Start: func(c Command, std Stdio) (Process, error) { return f.Start(c, std) }})
	if res, err := en.Run(t.Context(), "-c", "cvlist"); err != nil || !res.OK {
		t.Errorf("the tenant's list: %+v, %v", res, err)
	}
}
