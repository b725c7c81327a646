package scenario

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"

	"keylab.dev/keylab/lab/control"
)

// action is one thing that a step can do.
type action struct {
	about              string // for `keylab scenario actions`
	minNodes, maxNodes int
	component          bool     // it needs one
	program            bool     // it runs one
	required, options  []string // names in `with`
	do                 func(ctx context.Context, r *runner, s Step) (done string, err error)
	check              func(with map[string]string) (option string, err error) // what is wrong with an option in `with`, beyond its name
}

func (a action) nodeWords() string {
	switch {
	case a.maxNodes == 0:
		return "no nodes"
	case a.minNodes == a.maxNodes && a.minNodes == 1:
		return "1 node"
	case a.minNodes == a.maxNodes:
		return fmt.Sprintf("%d nodes", a.minNodes)
	}
	return fmt.Sprintf("%d to %d nodes", a.minNodes, a.maxNodes)
}

const many = 500

// actions are all that a step can do, by name.
var actions = map[string]action{}

func init() {
	for kind, about := range map[string]string{
		control.ActionStop:          "shut the node down, in order",
		control.ActionStart:         "start a node that is off",
		control.ActionReboot:        "stop and start the node",
		control.ActionCrash:         "cut the node's power, and start it again",
		control.ActionReplaceTPM:    "put another TPM, with a certificate of the active EK CA, into the node",
		control.ActionReactivate:    "have the verifier ask again a node that it had given up",
		control.ActionEnrol:         "have Keylime forget the node, and the tenant enrol it anew",
		control.ActionForget:        "have verifier and registrar forget the node",
		control.ActionRestartAgent:  "start the node's agent again, which then registers anew",
		control.ActionRuntimePolicy: "give the verifier a runtime policy of the node that also allows all files which it has measured",
		control.ActionBootPolicy:    "give the verifier the reference state of the firmware that the node has now",
		control.ActionContact:       "give the node's agent another contact address, with which it registers; the one that it had leads nowhere any more",
		control.ActionReimage:       "install the node anew: its TPM stays, what its agent had on the disk is lost",
		control.ActionResetTPM:      "clear the node's TPM (TPM2_Clear) and reboot it: the EK stays, all other keys are lost",
	} {
		actions[kind] = action{about: about, minNodes: 1, maxNodes: many, do: func(ctx context.Context, r *runner, s Step) (string, error) {
			return r.eachNode(s, func(node string) (string, error) { return r.lab.Act(ctx, control.Action{Kind: kind, Node: node}) })
		}}
	}
	for kind, about := range map[string]string{
		control.ActionExtendPCR: "extend a PCR by something that no log has",
		control.ActionTPMPolicy: "enrol the node anew, with a TPM policy by which a PCR has the value that it has now",
	} {
		actions[kind] = action{about: about, minNodes: 1, maxNodes: many, required: []string{"pcr"}, do: func(ctx context.Context, r *runner, s Step) (string, error) {
			pcr, err := control.ParsePCR(s.With["pcr"])
			if err != nil {
				return "", err
			}
			return r.eachNode(s, func(node string) (string, error) {
				return r.lab.Act(ctx, control.Action{Kind: kind, Node: node, PCR: pcr})
			})
		}}
	}
	actions[control.ActionReplaceAgent] = action{
		about:    "put another agent in the place of the node's, of the kind go, or of the kind binary with the path of its program, relative to the scenario's file",
		minNodes: 1, maxNodes: many, required: []string{"kind"}, options: []string{"path"},
		check: checkAgent,
		do: func(ctx context.Context, r *runner, s Step) (string, error) {
			return r.eachNode(s, func(node string) (string, error) { return r.lab.Act(ctx, agentAction(s, node)) })
		},
	}
	for kind, about := range map[string]string{
		control.ActionSwapTPMs: "have two nodes exchange their TPMs",
		control.ActionCloneTPM: "give the second node a copy of the first one's TPM, in place of its own",
	} {
		actions[kind] = action{about: about, minNodes: 2, maxNodes: 2, do: func(ctx context.Context, r *runner, s Step) (string, error) {
			return r.lab.Act(ctx, control.Action{Kind: kind, Node: s.Nodes[0], Other: s.Nodes[1]})
		}}
	}
	for kind, a := range map[string]struct {
		about   string
		options []string
		check   func(with map[string]string) (string, error)
		then    func(c *cast, node string)
	}{
		control.ActionAdd: {"have a node of that name join the running lab, and be attested; its definition, as YAML, is what would stand in the lab's list of nodes",
			[]string{"definition"}, checkDefinition, (*cast).join},
		control.ActionRemove: {"have the node leave the running lab, and Keylime forget it", nil, nil, (*cast).leave},
	} {
		actions[kind] = action{about: a.about, minNodes: 1, maxNodes: many, options: a.options, check: a.check, do: func(ctx context.Context, r *runner, s Step) (string, error) {
			return r.eachNode(s, func(node string) (string, error) {
				done, err := r.lab.Act(ctx, control.Action{Kind: kind, Node: node, Definition: s.With["definition"]})
				if err == nil {
					a.then(r.cast, node)
				}
				return done, err
			})
		}}
	}
	for kind, a := range map[string]struct {
		about    string
		required []string
		options  []string
	}{
		control.MeasureFile:    {"have the node's kernel measure a file, signed with the key of the lab or of a stranger, or not", []string{"path"}, []string{"digest", "sign"}},
		control.TamperList:     {"take the newest entry out of the node's IMA list; PCR 10 stays", nil, nil},
		control.TamperPCR:      {"extend PCR 10; the IMA list stays", nil, nil},
		control.TamperBoot:     {"reboot the node once with a tampered boot", []string{"tamper"}, nil},
		control.UpdateFirmware: {"reboot the node with another firmware", nil, []string{"version"}},
	} {
		actions[kind] = action{about: a.about, minNodes: 1, maxNodes: many, required: a.required, options: a.options, do: func(ctx context.Context, r *runner, s Step) (string, error) {
			return r.eachNode(s, func(node string) (string, error) {
				m, err := r.lab.Measure(ctx, control.Measurement{Kind: kind, Node: node, Path: s.With["path"], Digest: s.With["digest"], Sign: s.With["sign"], Tamper: s.With["tamper"], Version: s.With["version"]})
				return m.Done, err
			})
		}}
	}
	for kind, a := range ekActions {
		actions["ek-"+kind] = a.action(kind)
	}
	actions["ek-rotate"] = rotateAction
	actions["exec"] = action{about: "run a program on a node; it must end with 0", minNodes: 1, maxNodes: many, program: true, do: func(ctx context.Context, r *runner, s Step) (string, error) {
		return r.eachNode(s, func(node string) (string, error) { return r.mustExecute(ctx, node, s.Run) })
	}}
	actions["tpm"] = action{about: "run a TPM tool against a node's TPM; it must end with 0", minNodes: 1, maxNodes: many, program: true, do: func(ctx context.Context, r *runner, s Step) (string, error) {
		return r.eachNode(s, func(node string) (string, error) {
			return r.mustEnd(ctx, s.Run, func(argv []string) (*exec.Cmd, error) { return r.lab.TPMCommand(ctx, node, argv...) })
		})
	}}
	actions["tenant"] = action{about: "run Keylime's tenant with these arguments; it must end with 0", program: true, do: func(ctx context.Context, r *runner, s Step) (string, error) {
		return r.mustEnd(ctx, s.Run, func(argv []string) (*exec.Cmd, error) { return r.lab.TenantCommand(ctx, argv...) })
	}}
}

// eachNode does the same to several nodes, one after the other, and says what was done to the last one.
func (r *runner) eachNode(s Step, do func(node string) (string, error)) (done string, err error) {
	for _, n := range s.Nodes {
		if done, err = do(n); err != nil {
			return "", err
		}
	}
	if len(s.Nodes) > 1 {
		done = fmt.Sprintf("%d nodes; of the last one: %s", len(s.Nodes), done)
	}
	return done, nil
}

// execute runs a program on a host of the lab, a TPM tool against a node's TPM; err is about running it at all.
func (r *runner) execute(ctx context.Context, host string, argv []string) (out string, status int, err error) {
	return r.end(ctx, argv, func(argv []string) (*exec.Cmd, error) {
		if strings.HasPrefix(argv[0], "tpm2_") {
			return r.lab.TPMCommand(ctx, host, argv...)
		}
		return r.lab.Command(ctx, host, argv...)
	})
}

func (r *runner) mustExecute(ctx context.Context, host string, argv []string) (string, error) {
	return r.mustEnd(ctx, argv, func(argv []string) (*exec.Cmd, error) { return r.lab.Command(ctx, host, argv...) })
}

func (r *runner) mustEnd(ctx context.Context, argv []string, command func([]string) (*exec.Cmd, error)) (string, error) {
	out, status, err := r.end(ctx, argv, command)
	if err == nil && status != 0 {
		err = fmt.Errorf("it ended with %d and printed %q", status, clip(out))
	}
	return fmt.Sprintf("it printed %q", clip(out)), err
}

func (r *runner) end(ctx context.Context, argv []string, command func([]string) (*exec.Cmd, error)) (out string, status int, err error) {
	s, err := r.lab.Status(ctx)
	if err != nil {
		return "", 0, err
	}
	if argv, err = r.cast.expand(argv, s); err != nil {
		return "", 0, err
	}
	cmd, err := command(argv)
	if err != nil {
		return "", 0, err
	}
	text, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) && ctx.Err() == nil {
		return string(text), exit.ExitCode(), nil
	}
	return string(text), 0, err
}
