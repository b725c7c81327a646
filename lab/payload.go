package lab

import (
	"archive/zip"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"keylab.dev/keylab/internal/atomicfile"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/spec"
	"keylab.dev/keylab/lab/state"
)

// readPayloads reads what the specification has delivered, by the plan's names, before anything is touched. A relative path is one from the working folder.
func readPayloads(s Spec, p plan.Plan) (map[string][]byte, error) {
	payloads := map[string][]byte{}
	var errs []error
	for i, n := range s.EffectiveNodes() {
		planned := p.Nodes[i].Payload
		if planned == nil || payloads[planned.Name] != nil {
			continue
		}
		data, err := readPayload(n.Payload)
		if err != nil {
			errs = append(errs, fmt.Errorf("the payload of %s: %w", n.Name, err))
			data = []byte{} // the others that share it need not say the same
		}
		payloads[planned.Name] = data
	}
	return payloads, errors.Join(errs...)
}

func readPayload(p spec.Payload) ([]byte, error) {
	if p.File == "" {
		return []byte(p.Inline), nil
	}
	data, err := readLimited(p.File, spec.MaxPayload, "the most that fits through Keylime and into the agent's memory")
	if err == nil && p.Autorun {
		err = checkAutorun(p.File, data)
	}
	return data, err
}

// readLimited reads a regular file that is not empty and not larger than most bytes, which is why.
func readLimited(path string, most int, why string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(err, fmt.Errorf("%s is no regular file", path))
	}
	data, err := io.ReadAll(io.LimitReader(f, int64(most)+1))
	switch {
	case err != nil:
		return nil, err
	case len(data) == 0:
		return nil, fmt.Errorf("%s is empty", path)
	case len(data) > most:
		return nil, fmt.Errorf("%s is larger than %d KiB, %s", path, most>>10, why)
	}
	return data, nil
}

// checkAutorun finds out now what the agent would only write into its log.
func checkAutorun(file string, data []byte) error {
	z, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		return fmt.Errorf("%s is to be unpacked (payload.autorun), but is no zip archive: %w", file, err)
	}
	if !slices.ContainsFunc(z.File, func(f *zip.File) bool { return f.Name == plan.PayloadScript }) {
		return fmt.Errorf("%s is to be run (payload.autorun), but has no %s at its top", file, plan.PayloadScript)
	}
	return nil
}

// writePayloads puts the lab's copies in place of those of an earlier run.
func writePayloads(dir state.Dir, payloads, actions map[string][]byte) error {
	if err := os.RemoveAll(dir.Payloads()); err != nil {
		return fmt.Errorf("delete the payloads of the lab's last run: %w", err)
	}
	for name, data := range payloads {
		// Each has a folder of its own, which Keylime's tenant can include in a package.
		if err := os.MkdirAll(filepath.Dir(dir.Payload(name)), 0o700); err != nil {
			return fmt.Errorf("make the payload's folder: %w", err)
		}
		if err := atomicfile.Write(dir.Payload(name), data, 0o600); err != nil {
			return err
		}
		if err := writeActions(filepath.Dir(dir.Payload(name)), actions); err != nil {
			return err
		}
	}
	return writeActions(dir.Action(""), actions) // for nodes without a payload
}

// withPayloadFiles is the specification that the lab's folder keeps: its payloads are the copies beside it, so that lab.yaml holds nothing secret.
func withPayloadFiles(s Spec, p plan.Plan) Spec {
	used := func(name string) bool {
		return slices.ContainsFunc(p.Nodes, func(n plan.Node) bool { return n.Payload != nil && n.Payload.Name == name })
	}
	file := func(name string) string { return state.Dir{}.Payload(name) } // below the folder of lab.yaml
	if s.Payload.Inline = ""; used(plan.SharedPayload) {
		s.Payload.File = file(plan.SharedPayload)
	} else {
		s.Payload = spec.Payload{} // every node has another, or none
	}
	s.Nodes.List = slices.Clone(s.Nodes.List)
	for i, n := range p.Nodes {
		if i < len(s.Nodes.List) && n.Payload != nil && n.Payload.Name != plan.SharedPayload {
			s.Nodes.List[i].Payload.File, s.Nodes.List[i].Payload.Inline = file(n.Payload.Name), ""
		}
	}
	return s
}
