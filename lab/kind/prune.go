package kind

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/client"

	"keylab.dev/keylab/lab/state"
)

// unusedFor is how long nobody must have asked for a copy of keylab before it goes: an `up` that has just done so has no container yet.
const unusedFor = 10 * time.Minute

// programsDir is where the cache has copies of keylab: a folder for each build, named by the program's hash.
func programsDir(cache string) string { return filepath.Join(cache, "program") }

// lockPrograms waits until no other `up` stores or removes copies of keylab.
func lockPrograms(cache string) (unlock func(), err error) {
	dir := programsDir(cache)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("store the keylab program: %w", err)
	}
	return lockFile(context.Background(), filepath.Join(dir, "lock"))
}

// prunePrograms removes copies of keylab that no container mounts, no lab of this user was made with, and nobody asked for lately. It keeps one in any
// case: the path keep. It returns how many bytes that freed.
func prunePrograms(ctx context.Context, docker *client.Client, cache, keep string) (freed int64, err error) {
	used := map[string]bool{keep: true}
	containers, err := docker.ContainerList(ctx, container.ListOptions{All: true})
	if err != nil {
		return 0, fmt.Errorf("list Docker's containers: %w", err)
	}
	for _, c := range containers {
		for _, m := range c.Mounts {
			used[m.Source] = true
		}
	}
	labs, err := state.List()
	if err != nil {
		return 0, err
	}
	for _, dir := range labs {
		program, err := programOf(dir)
		if err != nil {
			return 0, err
		}
		used[program] = true
	}
	programs, err := filepath.Glob(filepath.Join(programsDir(cache), strings.Repeat("[0-9a-f]", programDigits), "keylab"))
	if err != nil {
		return 0, fmt.Errorf("list the copies of keylab: %w", err)
	}
	programs = slices.DeleteFunc(programs, func(p string) bool { return used[p] })
	for _, p := range programs {
		dir := filepath.Dir(p)
		asked, err := os.Stat(dir)
		if err != nil || time.Since(asked.ModTime()) < unusedFor {
			continue // it is gone, or wanted
		}
		size := folderSize(dir)
		if err := os.RemoveAll(dir); err != nil {
			return freed, fmt.Errorf("remove an old copy of keylab: %w", err)
		}
		freed += size
	}
	return freed, nil
}

// programOf is the path of the copy that a lab was made with; empty when it was not made here.
func programOf(dir state.Dir) (string, error) {
	data, err := os.ReadFile(factsFile(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	var f facts
	if err == nil {
		err = json.Unmarshal(data, &f)
	}
	if err != nil {
		return "", fmt.Errorf("read what is known of the lab, %s: %w", factsFile(dir), err)
	}
	return f.Program, nil
}

// folderSize is the size of a folder's files, in bytes, as far as they can be seen.
func folderSize(dir string) (size int64) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil {
			size += info.Size()
		}
	}
	return size
}
