package html

// Classes of states, which the style sheet gives a colour and a pattern. States are those of `keylab status`; one that is not known here is
// shown like "unknown", with its own word.
const (
	classGood  = "good"
	classWait  = "wait"
	classBad   = "bad"
	classOff   = "off"
	classOther = "other"
)

func stateClass(state string) string {
	switch state {
	case "attested", "running":
		return classGood
	case "starting", "registered", "enrolled", "leaving":
		return classWait
	case "failed", "refused", "overdue", "tpm dead", "agent dead", "dead":
		return classBad
	case "off", "stopped", "gone":
		return classOff
	}
	return classOther
}

// classWords name the classes in the legend.
var classWords = []struct{ class, words string }{
	{classGood, "attested, running"},
	{classWait, "on its way: starting, registered, enrolled"},
	{classBad, "failed, refused, dead"},
	{classOff, "off, gone"},
	{classOther, "unknown"},
}
