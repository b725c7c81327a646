package scenario

import (
	"errors"
	"maps"
	"path/filepath"

	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/spec"
)

// agentAction is what a step with replace-agent asks the lab for.
func agentAction(s Step, node string) control.Action {
	return control.Action{Kind: control.ActionReplaceAgent, Node: node, AgentKind: s.With["kind"], AgentPath: s.With["path"]}
}

// checkAgent looks at the options of replace-agent, whose path may still be relative.
func checkAgent(with map[string]string) (option string, err error) {
	a := agentAction(Step{With: with}, "any")
	option = "kind"
	if a.AgentPath != "" {
		a.AgentPath = "/" + a.AgentPath
		option = "path"
	}
	return option, a.Check()
}

// checkDefinition looks at what is special about a node that joins.
func checkDefinition(with map[string]string) (option string, err error) {
	if n, _ := spec.DecodeNode("", []byte(with["definition"])); n.Name != "" {
		return "definition", errors.New("a node's name stands in the step's nodes, not in its definition")
	}
	_, err = control.Action{Kind: control.ActionAdd, Node: "any", Definition: with["definition"]}.Defined()
	return "definition", err
}

// resolveAgents makes the paths of agents' programs absolute, which are relative to the scenario's file.
func (s *Scenario) resolveAgents(file string) error {
	for i, step := range s.Steps {
		path := step.With["path"]
		if step.Do != control.ActionReplaceAgent || path == "" || filepath.IsAbs(path) {
			continue
		}
		absolute, err := filepath.Abs(filepath.Join(filepath.Dir(file), path))
		if err != nil {
			return err
		}
		s.Steps[i].With = maps.Clone(step.With)
		s.Steps[i].With["path"] = absolute
	}
	return nil
}
