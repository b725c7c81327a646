package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"keylab.dev/keylab/lab"
	"keylab.dev/keylab/lab/spec"
)

type upFlags struct {
	lab         labFlag
	file        string
	nodes       int
	mode        string
	ekAlgorithm string
	akAlgorithm string
	hash        string
	backend     string
	seed        string
	agentBinary string
	agentImage  string
	substrate   string
	images      string
	dryRun      bool
	output      string
	retain      bool
	force       bool
	verbose     bool
}

func newUp(s streams) *cobra.Command {
	f := &upFlags{}
	c := &cobra.Command{
		Use:   "up [FILE]",
		Short: "Bring a lab up",
		Long: `Brings up the lab that FILE describes, or one of three nodes, and returns when the verifier has attested every node.
Options given here win over the file. Interrupted, it takes back what it did.`,
		Example: `  keylab up
  keylab up --nodes 8 --ek-algorithm ecc-p256
  keylab up -f examples/three-nodes.yaml
  keylab up --dry-run --output yaml`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return f.run(c, s, args) },
	}
	f.lab.add(c)
	fl := c.Flags()
	fl.StringVarP(&f.file, "file", "f", "", "the lab's specification; - for standard input")
	fl.IntVarP(&f.nodes, "nodes", "n", 0, "how many nodes, all alike")
	fl.StringVar(&f.mode, "mode", "", "who opens the connections: pull (the verifier) or push (the agents)")
	fl.StringVar(&f.ekAlgorithm, "ek-algorithm", "", "the EKs' algorithm: rsa2048 or ecc-p256")
	fl.StringVar(&f.akAlgorithm, "ak-algorithm", "", "the AKs' signature scheme: rsassa or ecdsa")
	fl.StringVar(&f.hash, "hash-algorithm", "", "hash of the AKs' signatures, and the PCR bank that is quoted: sha256, sha384, sha512 or sha1")
	fl.StringVar(&f.backend, "tpm-backend", "", "what simulates the TPMs: auto, swtpm or simulator")
	fl.StringVar(&f.seed, "seed", "", "seed of the TPMs: the same one gives the same EKs and UUIDs")
	fl.StringVar(&f.agentBinary, "agent-binary", "", "run this program as the nodes' agent (rust-keylime's keylime_agent)")
	fl.StringVar(&f.agentImage, "agent-image", "", "run this container image as the nodes' agent (substrate kind)")
	fl.StringVar(&f.substrate, "substrate", "", "what the lab is built from: netns or kind")
	fl.StringVar(&f.images, "images", "", "where container images come from: auto, registry or local (substrate kind)")
	fl.BoolVar(&f.dryRun, "dry-run", false, "print what would be built, and build nothing")
	fl.StringVarP(&f.output, "output", "o", "table", "form of the dry run: table, json or yaml")
	fl.BoolVar(&f.retain, "retain", false, "leave a lab that failed to start as it is")
	fl.BoolVar(&f.force, "force", false, "try it even if there seems to be too little memory (substrate kind)")
	fl.BoolVarP(&f.verbose, "verbose", "v", false, "one line for each node's steps too")
	return c
}

func (f *upFlags) run(c *cobra.Command, s streams, args []string) error {
	if err := checkOutput(f.output, "table", "json", "yaml"); err != nil {
		return err
	}
	labSpec, err := f.spec(c, s, args)
	if err != nil {
		return err
	}
	p, err := lab.Plan(labSpec)
	if err != nil {
		return err
	}
	if f.dryRun {
		return printPlan(s.out, p, f.output)
	}
	progress := newProgress(s.err, p, f.verbose)
	l, err := lab.Up(c.Context(), labSpec, lab.UpOptions{Retain: f.retain, Force: f.force, OnEvent: progress.event})
	progress.close()
	if err != nil {
		return err
	}
	return f.ready(c.Context(), s, l, progress)
}

// ready prints how the lab is, and what to do next.
func (f *upFlags) ready(ctx context.Context, s streams, l *lab.Lab, progress *progress) error {
	status, err := l.Status(ctx)
	if err != nil {
		return err
	}
	attested := 0
	for _, n := range status.Nodes {
		if n.AttestationCount > 0 {
			attested++
		}
	}
	fmt.Fprintf(s.err, "Lab %q is up: %d of %d nodes attested, %.1f s.\n", l.Name(), attested, len(status.Nodes), progress.elapsed().Seconds())
	hint := ""
	if l.Name() != spec.Default().Name {
		hint = " " + l.Name()
	}
	fmt.Fprintf(s.err, "Next: keylab verify%[1]s · keylab status%[1]s · keylab down%[1]s\n", hint)
	return nil
}

// spec reads the specification and puts the command line's options over it.
func (f *upFlags) spec(c *cobra.Command, s streams, args []string) (lab.Spec, error) {
	file := f.file
	if len(args) == 1 {
		if file != "" {
			return lab.Spec{}, usagef("two specifications are named: %s and --file %s", args[0], file)
		}
		file = args[0]
	}
	labSpec, err := readSpec(s.in, file)
	if err != nil {
		return labSpec, err
	}
	if f.lab.name == "" && file == "" {
		f.lab.name = os.Getenv(envLab)
	}
	if f.lab.name != "" {
		// A domain that followed from the file's name follows from the new one.
		if labSpec.Networks.Domain == "agents."+labSpec.Name+".test" {
			labSpec.Networks.Domain = ""
		}
		labSpec.Name = f.lab.name
	}
	if c.Flags().Changed("nodes") {
		if f.nodes < 1 {
			return labSpec, usagef("--nodes %d: a lab has 1 to %d nodes", f.nodes, spec.MaxNodes)
		}
		labSpec.Nodes = spec.Nodes{Count: f.nodes}
	}
	if f.substrate != "" {
		labSpec.Substrate = spec.Substrate(f.substrate)
		if file == "" {
			labSpec.Timeouts.Ready = 0 // its default follows from the substrate
		}
	}
	if file == "" { // as large as it must be for the number of nodes and the substrate
		labSpec.Networks.Cluster = spec.ClusterNetwork{}
	}
	if f.images != "" {
		labSpec.Images.Source = spec.ImageSource(f.images)
	}
	if f.agentImage != "" {
		labSpec.Agent.Kind, labSpec.Agent.Image = spec.AgentImage, f.agentImage
	}
	if f.mode != "" {
		labSpec.Keylime.Mode = spec.Mode(f.mode)
	}
	if f.ekAlgorithm != "" {
		labSpec.TPM.EKAlgorithm = spec.EKAlgorithm(f.ekAlgorithm)
	}
	if f.akAlgorithm != "" {
		labSpec.Agent.AKAlgorithm = spec.AKAlgorithm(f.akAlgorithm)
	}
	if f.hash != "" {
		labSpec.Agent.HashAlgorithm = spec.HashAlgorithm(f.hash)
	}
	if f.backend != "" {
		labSpec.TPM.Backend = spec.Backend(f.backend)
	}
	if f.seed != "" {
		labSpec.TPM.Seed = f.seed
	}
	if f.agentBinary != "" {
		path, err := filepath.Abs(f.agentBinary)
		if err != nil {
			return labSpec, err
		}
		labSpec.Agent.Kind, labSpec.Agent.Path = spec.AgentBinary, path
	}
	return labSpec, nil
}

// readSpec reads a specification; without a file it is the default one. Paths in it become absolute.
func readSpec(stdin io.Reader, file string) (lab.Spec, error) {
	if file == "" {
		return spec.Default(), nil
	}
	name, data, err := readFile(stdin, file, "specification")
	if err != nil {
		return lab.Spec{}, err
	}
	labSpec, err := spec.Decode(name, data)
	if err != nil {
		return labSpec, err
	}
	return labSpec, labSpec.ResolvePaths(file)
}

// readFile reads a file of keylab's, or standard input for -, and says how it is called in messages.
func readFile(stdin io.Reader, file, what string) (name string, data []byte, err error) {
	name = file
	if file == "-" {
		name = "standard input"
		data, err = io.ReadAll(io.LimitReader(stdin, maxSpec+1))
	} else {
		data, err = os.ReadFile(file)
	}
	if err != nil {
		return name, nil, usagef("read the %s: %w", what, err)
	}
	if len(data) > maxSpec {
		return name, nil, usagef("%s is larger than %d bytes: not a %s of keylab's", name, maxSpec, what)
	}
	return name, data, nil
}

// maxSpec is far above what 500 nodes with every option need, in bytes.
const maxSpec = 1 << 20
