// Package fakedocker is a Docker daemon for tests, which says of itself what the test wants and has nothing.
package fakedocker

import (
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/docker/docker/api/types/system"
)

// Daemon is how a daemon is. New fills in one that a lab can run with.
type Daemon struct {
	API     string // the newest version of its API that it speaks
	Info    system.Info
	Image   string   // the one image that it has, if any
	Mounts  []string // paths of this machine that its one container has mounted
	Refuses string   // what it says when a container is to be started; empty: that the program is not in the image

	mu      sync.Mutex
	Removed []string // the containers that were removed, by id; read when the daemon is idle
}

// New is a daemon that a lab can run with.
func New() *Daemon {
	return &Daemon{API: "1.41", Image: "some.test/image:1", Info: system.Info{
		ServerVersion: "20.10.24", OSType: "linux", MemoryLimit: true, CPUCfsPeriod: true, CPUCfsQuota: true, CPUShares: true, CPUSet: true, PidsLimit: true,
		CgroupDriver: "cgroupfs", CgroupVersion: "1", SecurityOptions: []string{"name=seccomp,profile=default"},
	}}
}

// Serve has the daemon answer on a unix socket until the test ends, and makes it the test's Docker, together with a docker command. It returns the
// socket's path.
func (d *Daemon) Serve(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "docker-") // t.TempDir may be too long for a socket's address
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "docker.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(d)
	s.Listener.Close()
	s.Listener = l
	s.Start()
	t.Cleanup(s.Close)
	t.Setenv("DOCKER_HOST", "unix://"+socket)
	Command(t, "exit 1")
	return socket
}

// Command puts a docker command, a shell script, before all others in the search path.
func Command(t testing.TB, script string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "docker"), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH"))
}

// ServeHTTP answers the few calls that are asked before a lab is made.
func (d *Daemon) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Api-Version", d.API)
	w.Header().Set("Ostype", d.Info.OSType)
	path := r.URL.Path
	if strings.HasPrefix(path, "/v") {
		path = path[1+strings.Index(path[1:], "/"):]
	}
	switch {
	case path == "/_ping":
	case path == "/info":
		answer(w, http.StatusOK, d.Info)
	case path == "/images/json":
		list := []map[string]any{}
		if d.Image != "" {
			list = append(list, map[string]any{"Id": "sha256:1", "RepoTags": []string{d.Image}})
		}
		answer(w, http.StatusOK, list)
	case path == "/containers/json":
		mounts := []map[string]string{}
		for _, m := range d.Mounts {
			mounts = append(mounts, map[string]string{"Type": "bind", "Source": m, "Destination": "/mounted"})
		}
		answer(w, http.StatusOK, []map[string]any{{"Id": "c0", "Names": []string{"/other"}, "Mounts": mounts}})
	case path == "/containers/create":
		answer(w, http.StatusCreated, map[string]any{"Id": "c1", "Warnings": []string{}})
	case path == "/containers/c1/start" && d.Refuses == "":
		answer(w, http.StatusBadRequest, map[string]string{"message": "OCI runtime create failed: " +
			`unable to start container process: exec: "/x": stat /x: no such file or directory: unknown`})
	case path == "/containers/c1/start":
		answer(w, http.StatusInternalServerError, map[string]string{"message": d.Refuses})
	case r.Method == http.MethodDelete && strings.HasPrefix(path, "/containers/"):
		d.mu.Lock()
		d.Removed = append(d.Removed, strings.TrimPrefix(path, "/containers/"))
		d.mu.Unlock()
		w.WriteHeader(http.StatusNoContent)
	default:
		answer(w, http.StatusNotFound, map[string]string{"message": "the test's daemon has no " + r.Method + " " + path})
	}
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client has gone: nobody to tell
}
