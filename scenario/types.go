package scenario

import (
	"keylab.dev/keylab/lab/spec"
)

// Kind is the kind of document that this package reads.
const Kind = "Scenario"

// Scenario is one experiment.
type Scenario struct {
	// The version of this format.
	APIVersion string `yaml:"apiVersion" jsonschema:"required,enum=keylab/v1alpha1"`
	// What the document describes.
	Kind string `yaml:"kind" jsonschema:"required,enum=Scenario"`
	// The scenario's name: a DNS label.
	Name string `yaml:"name" jsonschema:"required,maxLength=48,pattern=^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"`
	// One line that says what is tried.
	Title string `yaml:"title" jsonschema:"required,maxLength=120"`
	// The chapter of the library that it belongs to.
	Topic Topic `yaml:"topic,omitempty" jsonschema:"enum=ek-trust,enum=rotation,enum=identity,enum=routing,enum=faults,enum=integrity,enum=push,enum=other,default=other"`
	// What its page says.
	About About `yaml:"about,omitempty"`
	// The models of attestation in which it can be run. Left out: that of its lab.
	Modes []spec.Mode `yaml:"modes,omitempty" jsonschema:"maxItems=2"`
	// The substrates on which it can be run. Left out: all.
	Substrates []spec.Substrate `yaml:"substrates,omitempty" jsonschema:"maxItems=2"`
	// The lab, as in a lab's file, without apiVersion and kind. Left out: three nodes.
	Lab spec.Spec `yaml:"lab,omitempty"`
	// What is done and expected, in this order.
	Steps []Step `yaml:"steps" jsonschema:"required,maxItems=200"`
}

// Topic is a chapter of the library.
type Topic string

// Topics are all chapters, in the order in which they are read.
var Topics = []Topic{"ek-trust", "rotation", "identity", "routing", "faults", "integrity", "push", "other"}

// Heading is a chapter's title.
func (t Topic) Heading() string {
	return map[Topic]string{
		"ek-trust": "EK trust", "rotation": "EK CA rotation", "identity": "Identity", "routing": "Routing", "faults": "Faults",
		"integrity": "Integrity", "push": "The push model", "other": "Other",
	}[t]
}

// About is what a scenario's page says. Paragraphs are apart by an empty line.
type About struct {
	// What is asked.
	Question string `yaml:"question,omitempty" jsonschema:"content,maxLength=4000"`
	// What happens: what Keylime really does, and in which version that was seen.
	Happens string `yaml:"happens,omitempty" jsonschema:"content,maxLength=4000"`
	// Why it does.
	Why string `yaml:"why,omitempty" jsonschema:"content,maxLength=4000"`
	// What it means for a fleet.
	Fleet string `yaml:"fleet,omitempty" jsonschema:"content,maxLength=4000"`
}

// Step is one thing that is done, or expected. It has exactly one of do, fault, mend, expect, never and hold.
type Step struct {
	// What the step is for, in the reader's words. Left out: it follows from what it does.
	Name string `yaml:"name,omitempty" jsonschema:"maxLength=120"`
	// A name by which a later step's since can mean this one.
	ID string `yaml:"id,omitempty" jsonschema:"maxLength=32,pattern=^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"`
	// Something to do: the name of an action (`keylab scenario actions` lists them).
	Do string `yaml:"do,omitempty" jsonschema:"maxLength=32"`
	// Something to break: the name of a fault. The step ends when it was seen that it is broken.
	Fault string `yaml:"fault,omitempty" jsonschema:"maxLength=32"`
	// A fault to mend.
	Mend string `yaml:"mend,omitempty" jsonschema:"maxLength=32"`
	// Something that must happen, since `since` and before `within` is over.
	Expect *Condition `yaml:"expect,omitempty"`
	// Something that must not have happened, from `since` until now.
	Never *Condition `yaml:"never,omitempty"`
	// Nothing is done for this long: how long a fault lasts, for instance.
	Hold spec.Duration `yaml:"hold,omitempty" jsonschema:"minimum=1ms,maximum=1h"`
	// The nodes of do, fault and mend: names, `any` (one, by the seed, the same in the whole run) or `all` that the lab has then.
	Nodes []string `yaml:"nodes,omitempty" jsonschema:"maxItems=500"`
	// Of mend: do not tell the verifier, so that one sees whom it has given up.
	Leave bool `yaml:"leave,omitempty"`
	// The component of do, fault and mend: registrar, verifier, dns, ingress.
	Component string `yaml:"component,omitempty" jsonschema:"maxLength=32"`
	// Options of do and fault, by name.
	With map[string]string `yaml:"with,omitempty"`
	// A program that `do: exec`, `do: tenant` and `do: tpm` run. ${NODE.uuid}, ${NODE.hostname} and ${NODE.address} stand for a node's.
	Run []string `yaml:"run,omitempty" jsonschema:"maxItems=100"`
	// What is done must be refused, with this text (a regular expression) in the refusal.
	Refused string `yaml:"refused,omitempty" jsonschema:"maxLength=400"`
	// Only in this model of attestation; in the other one the step is left out.
	Only spec.Mode `yaml:"only,omitempty" jsonschema:"enum=pull,enum=push"`
	// The deadline of expect, and of a fault to be seen. Left out: a minute, on kind three.
	Within spec.Duration `yaml:"within,omitempty" jsonschema:"minimum=100ms,maximum=1h"`
	// From when on expect and never look at the history: the id of a step, from its beginning, `start`, or `now`. Left out: for expect the beginning,
	// for never the end of the last thing that was done, broken or mended.
	Since string `yaml:"since,omitempty" jsonschema:"maxLength=32"`
}

// Condition is something that can be observed. It is about nodes, a component, the checks of `keylab verify`, the verifier's notices, the network's counters, a log,
// a program's end, or an HTTP status; one of these.
type Condition struct {
	// The nodes, each of which must meet state, detail and attestations: names, `any`, `all`, or `others` (all that no step before has named).
	Nodes []string `yaml:"nodes,omitempty" jsonschema:"maxItems=500"`
	// A node's state, as `keylab status` shows it, or a component's. A node's attested means a good attestation that is new; gone is a node that left the lab.
	State string `yaml:"state,omitempty" jsonschema:"maxLength=32"`
	// A regular expression for what `keylab status` says beside the state: the verifier's failure event, or the tenant's refusal.
	Detail string `yaml:"detail,omitempty" jsonschema:"maxLength=400"`
	// How many good attestations more.
	Attestations int `yaml:"attestations,omitempty" jsonschema:"minimum=1,maximum=10000"`
	// A component: registrar, verifier, dns, ingress, router.
	Component string `yaml:"component,omitempty" jsonschema:"maxLength=32"`
	// What `keylab verify` comes to: passed, or failed by exactly the checks that fails names.
	Verify string `yaml:"verify,omitempty" jsonschema:"enum=passed,enum=failed"`
	// The checks that fail, as `keylab verify` names them; * stands for any text.
	Fails []string `yaml:"fails,omitempty" jsonschema:"maxItems=200"`
	// A notice by which the verifier says that it no longer trusts an agent.
	Notice *Notice `yaml:"notice,omitempty"`
	// A counter of the network, as `keylab net` names it; * stands for any text.
	Counter string `yaml:"counter,omitempty" jsonschema:"maxLength=120"`
	// A log, by the component's or the node's name, in which a line has output: at least as many lines as more says. It is the whole log of the lab's run.
	Log string `yaml:"log,omitempty" jsonschema:"maxLength=63"`
	// By how much the counters grew in all, or how many lines of the log, at least. Left out: 1.
	More int `yaml:"more,omitempty" jsonschema:"minimum=1,maximum=1000000000"`
	// A program that is run on a host of the lab, again and again until it ends as expected; one whose name begins with tpm2_ is run against a node's TPM. See
	// run of a step.
	Run []string `yaml:"run,omitempty" jsonschema:"maxItems=100"`
	// The host that run runs on.
	On string `yaml:"on,omitempty" jsonschema:"maxLength=63"`
	// Its exit status.
	Exit int `yaml:"exit,omitempty" jsonschema:"minimum=0,maximum=255"`
	// An HTTP request that is made again and again until it comes to this.
	HTTP *HTTP `yaml:"http,omitempty"`
	// A regular expression for what it prints, for a line of the log, or for the body of the answer.
	Output string `yaml:"output,omitempty" jsonschema:"maxLength=400"`
}

// HTTP is a request to a service of Keylime's or to a node's agent, and what must come of it: a status, or an error, which is why there is no answer.
type HTTP struct {
	// The host of the lab that makes it: tenant, verifier, a node, … Left out: the tenant.
	From string `yaml:"from,omitempty" jsonschema:"maxLength=63"`
	// Whom it goes to: registrar, verifier, or a node, whose agent is asked by its hostname (pull model).
	To string `yaml:"to" jsonschema:"required,maxLength=63"`
	// Its method. Left out: GET.
	Method string `yaml:"method,omitempty" jsonschema:"enum=GET,enum=HEAD,enum=POST,enum=PUT,enum=PATCH,enum=DELETE"`
	// Path and query. ${NODE.uuid} and the like stand for a node's, as in run.
	Path string `yaml:"path" jsonschema:"required,maxLength=400,pattern=^/"`
	// What is sent, as application/json.
	Body string `yaml:"body,omitempty" jsonschema:"maxLength=4000"`
	// With TLS and the tenant's client certificate (client), with TLS and none (anonymous), or without TLS, at the registrar's port for agents (plain).
	// Left out: client.
	As string `yaml:"as,omitempty" jsonschema:"enum=client,enum=anonymous,enum=plain"`
	// The status of the answer.
	Status int `yaml:"status,omitempty" jsonschema:"minimum=100,maximum=599"`
	// A regular expression for why there is no answer: a connection refused, a TLS alert, no answer in ten seconds.
	Error string `yaml:"error,omitempty" jsonschema:"maxLength=400"`
}

// Notice is a notice of the verifier's, as `keylab events` shows it.
type Notice struct {
	// The node that it is about.
	About string `yaml:"about" jsonschema:"required,maxLength=63"`
	// Who got it: webhook, or a node. Left out: anybody.
	Receiver string `yaml:"receiver,omitempty" jsonschema:"maxLength=63"`
	// A regular expression for Keylime's event id.
	Event string `yaml:"event,omitempty" jsonschema:"maxLength=400"`
	// The name of a revocation action that the receiver, a node, ran because of it, and that ended well.
	Action string `yaml:"action,omitempty" jsonschema:"maxLength=64"`
}
