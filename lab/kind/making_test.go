package kind

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/docker/docker/client"

	"keylab.dev/keylab/lab/state"
)

// A network that a killed keylab has asked for appears only after the lab was looked for: it is waited for, and removed.
func TestRemoveWhatIsBeingMade(t *testing.T) {
	looks, removed := 0, false
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path := r.URL.Path[strings.Index(r.URL.Path[1:], "/")+1:] // without the version
		network := map[string]any{"Name": "keylab-killed-services", "Id": "n1", "Labels": map[string]string{LabelLab: "killed"}}
		var answer any = []any{}
		switch {
		case path == "/volumes":
			answer = map[string]any{"Volumes": []any{}}
		case path == "/networks":
			if looks++; looks > 3 && !removed {
				answer = []any{network}
			}
		case path == "/networks/n1" && r.Method == http.MethodDelete:
			removed = true
			w.WriteHeader(http.StatusNoContent)
			return
		case path == "/networks/n1":
			answer = network
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(answer) // the client has gone: nobody to tell
	}))
	defer server.Close()
	docker, err := client.NewClientWithOpts(client.WithHost("tcp://"+server.Listener.Addr().String()), client.WithVersion("1.41"))
	if err != nil {
		t.Fatal(err)
	}
	defer docker.Close()
	l := &Lab{dir: state.Dir{Lab: "killed", Path: t.TempDir()}}
	if _, err := l.making(t.Context(), "keylab-killed-services"); err != nil { // and keylab is killed
		t.Fatal(err)
	}
	if err := remove(t.Context(), docker, "killed", removal{dir: l.dir.Path}); err != nil {
		t.Fatal(err)
	}
	if !removed {
		t.Error("the network is there")
	}
	if _, err := os.Stat(makingDir(l.dir.Path)); !os.IsNotExist(err) {
		t.Errorf("what is gone is still waited for: %v", err)
	}
}
