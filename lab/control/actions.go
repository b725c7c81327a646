package control

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"keylab.dev/keylab/lab/spec"
)

// Action asks the lab to do one thing to one node, as its operator could, or to two.
type Action struct {
	Kind  string `json:"kind"` // one of Actions
	Node  string `json:"node"`
	Other string `json:"other,omitempty"` // the second node, of those kinds that take two
	PCR   *int   `json:"pcr,omitempty"`   // of ActionExtendPCR and ActionTPMPolicy, 0 to 23

	AgentKind string `json:"agent_kind,omitempty"` // of ActionReplaceAgent: one of AgentKinds
	AgentPath string `json:"agent_path,omitempty"` // of ActionReplaceAgent, for a binary: its absolute path

	// Definition is of ActionAdd: what is special about the node, as YAML, as it would stand in the lab's list of nodes; empty: nothing.
	Definition string `json:"definition,omitempty"`
}

// Defined reads Definition. An error is an [spec.InvalidError], or says what a node that joins cannot have.
func (a Action) Defined() (spec.Node, error) {
	n := spec.Node{Name: a.Node}
	if a.Definition == "" {
		return n, nil
	}
	n, err := spec.DecodeNode("", []byte(a.Definition))
	switch {
	case err != nil:
		return n, err
	case n.Name != "" && n.Name != a.Node:
		return n, fmt.Errorf("the node that is to join is called %s, and its definition names it %s", a.Node, n.Name)
	case n.Payload.File != "" || n.Payload.Inline != "":
		return n, errors.New("payload: a node that joins a running lab can have no payload of its own")
	case n.Agent.Path != "" && !filepath.IsAbs(n.Agent.Path):
		return n, fmt.Errorf("agent.path: %s is not absolute, and a node that joins has no file to which it could be relative", n.Agent.Path)
	}
	n.Name = a.Node
	return n, nil
}

// What can be done to a node.
const (
	ActionStop       = "stop"        // shut down in order, and off
	ActionStart      = "start"       // on again
	ActionReboot     = "reboot"      // stop and start
	ActionCrash      = "crash"       // a power cut, and on again
	ActionReplaceTPM = "replace-tpm" // another TPM in the same machine
	ActionReactivate = "reactivate"  // have the verifier ask again after it had given up
	ActionEnrol      = "enrol"       // have the verifier forget the node and the tenant enrol it anew

	ActionForget       = "forget"        // have verifier and registrar forget the node
	ActionRestartAgent = "restart-agent" // start its agent again, which then registers anew

	ActionReimage = "reimage" // the disk is lost and the machine installed anew: the TPM stays, what the agent kept is gone

	ActionReplaceAgent = "replace-agent" // another agent on the same machine

	ActionContact = "contact" // its agent gets another contact address, and registers with it

	ActionAdd    = "add"    // a node joins the running lab, and is attested
	ActionRemove = "remove" // a node leaves it, and Keylime is told

	ActionExtendPCR = "pcr-extend" // extend a PCR by something that no log has
	ActionResetTPM  = "tpm-reset"  // TPM2_Clear and a reboot: the EK stays, all other keys are lost
	ActionSwapTPMs  = "tpm-swap"   // two machines exchange their TPMs
	ActionCloneTPM  = "tpm-clone"  // the other node gets a copy of the node's TPM in place of its own

	ActionRuntimePolicy = "policy-runtime" // the verifier gets a runtime policy with all files that the node has measured
	ActionBootPolicy    = "policy-boot"    // the verifier gets the reference state of the firmware that the node has now
	ActionTPMPolicy     = "policy-tpm"     // the node is enrolled anew, with the value that a PCR has now
)

// Actions are all kinds of Action.
var Actions = []string{
	ActionStop, ActionStart, ActionReboot, ActionCrash, ActionReplaceTPM, ActionReactivate, ActionEnrol, ActionForget, ActionRestartAgent, ActionReimage,
	ActionReplaceAgent, ActionContact, ActionAdd, ActionRemove, ActionExtendPCR, ActionResetTPM, ActionSwapTPMs, ActionCloneTPM, ActionRuntimePolicy, ActionBootPolicy, ActionTPMPolicy,
}

// TwoNodes tells whether an action is done to two nodes.
func TwoNodes(kind string) bool { return kind == ActionSwapTPMs || kind == ActionCloneTPM }

// AboutPCR tells whether an action needs a PCR.
func AboutPCR(kind string) bool { return kind == ActionExtendPCR || kind == ActionTPMPolicy }

// AboutMembers tells whether an action changes which nodes a lab has.
func AboutMembers(kind string) bool { return kind == ActionAdd || kind == ActionRemove }

// AgentKinds are the kinds of agents that ActionReplaceAgent knows: keylab's own, and a program.
var AgentKinds = []string{string(spec.AgentGo), string(spec.AgentBinary)}

// checkAgent tells what is wrong with the agent that an action names.
func (a Action) checkAgent() error {
	binary := string(spec.AgentBinary)
	switch {
	case a.Kind != ActionReplaceAgent && (a.AgentKind != "" || a.AgentPath != ""):
		return fmt.Errorf("%s is about no other agent", a.Kind)
	case a.Kind != ActionReplaceAgent:
	case a.AgentKind == "":
		return fmt.Errorf("%s needs the kind of the agent, %s", a.Kind, strings.Join(AgentKinds, " or "))
	case !slices.Contains(AgentKinds, a.AgentKind):
		return fmt.Errorf("%q is no kind of agent that can replace another one; there are %s", a.AgentKind, strings.Join(AgentKinds, ", "))
	case a.AgentKind == binary && a.AgentPath == "":
		return fmt.Errorf("%s needs the path of the program, for an agent of the kind %s", a.Kind, binary)
	case a.AgentKind == binary && !filepath.IsAbs(a.AgentPath):
		return fmt.Errorf("%s needs an absolute path, not %q", a.Kind, a.AgentPath)
	case a.AgentKind != binary && a.AgentPath != "":
		return fmt.Errorf("%s: a path is for an agent of the kind %s only, not %s", a.Kind, binary, a.AgentKind)
	}
	return nil
}

// PCRs is how many PCRs a TPM has in each bank.
const PCRs = 24

// Check tells what is wrong with an action, as far as that can be said without a lab.
func (a Action) Check() error {
	switch {
	case !slices.Contains(Actions, a.Kind):
		return fmt.Errorf("there is no action %q; there are %s", a.Kind, strings.Join(Actions, ", "))
	case a.Node == "":
		return fmt.Errorf("%s needs the name of a node", a.Kind)
	case TwoNodes(a.Kind) && (a.Other == "" || a.Other == a.Node):
		return fmt.Errorf("%s needs two different nodes", a.Kind)
	case !TwoNodes(a.Kind) && a.Other != "":
		return fmt.Errorf("%s is done to one node, not to %s and %s", a.Kind, a.Node, a.Other)
	case AboutPCR(a.Kind) && a.PCR == nil:
		return fmt.Errorf("%s needs a PCR, 0 to %d", a.Kind, PCRs-1)
	case !AboutPCR(a.Kind) && a.PCR != nil:
		return fmt.Errorf("%s is about no PCR", a.Kind)
	case a.PCR != nil && (*a.PCR < 0 || *a.PCR >= PCRs):
		return fmt.Errorf("there is no PCR %d; there are 0 to %d", *a.PCR, PCRs-1)
	}
	if a.Kind != ActionAdd && a.Definition != "" {
		return fmt.Errorf("%s takes no definition of a node", a.Kind)
	}
	if _, err := a.Defined(); err != nil {
		return err
	}
	return a.checkAgent()
}

// ParsePCR reads the number of a PCR, for Action.PCR.
func ParsePCR(text string) (*int, error) {
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 || n >= PCRs {
		return nil, fmt.Errorf("%q is no PCR; there are 0 to %d", text, PCRs-1)
	}
	return &n, nil
}
