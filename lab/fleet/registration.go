package fleet

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
)

// ErrForbidden is the registrar's word on an agent that it knows otherwise. The Rust agent of the push model does not end then, but asks again for ever.
var ErrForbidden = errors.New("the registrar forbids the agent to register (403)")

// Activated reads in the log of an agent of the push model, which does not listen, that it has made itself active: the registrar may know it from before
// it was started again, and forgets that for a moment when it registers anew. It knows the words of keylab's agents and of the Rust agents. nil: it has;
// ErrForbidden: it never will.
func Activated(log io.Reader, uuid string) error {
	said := fmt.Sprintf("SUCCESS: Agent %s activated", uuid)
	lines := bufio.NewScanner(log)
	lines.Buffer(nil, maxLogLine)
	for lines.Scan() {
		switch line := lines.Text(); {
		case strings.Contains(line, said), strings.Contains(line, "msg=registered ") && strings.Contains(line, "agent="+uuid+" "):
			return nil
		case strings.Contains(line, "RegistrationForbidden"):
			return ErrForbidden
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read the agent's log: %w", err)
	}
	return fmt.Errorf("its log does not have %q", said)
}

// refusedWords are those by which agents say, as they end, that the registrar will not have them: keylab's, and the Rust agent's.
var refusedWords = regexp.MustCompile(`answered 4\d\d |RegistrationForbidden|\b403\b`)

// RefusedRegistration is the last line of an agent's last words by which the registrar refused it; "" where they say no such thing.
func RefusedRegistration(said string) (line string) {
	for l := range strings.Lines(said) {
		if refusedWords.MatchString(l) {
			line = strings.TrimSpace(l)
		}
	}
	return line
}
