package fleet

import (
	"bufio"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"strings"
)

// maxLogLine bounds a line of an agent's log, in bytes: a push agent's evidence is one line.
const maxLogLine = 64 << 20

// Served counts, in an agent's own log, the quotes that it gave for a nonce (pull model) or for a challenge of the verifier, in hexadecimal (push
// model). It knows the words of keylab's agents and of the Rust agents; those of the push model write down challenges at RUST_LOG
// keylime_push_model_agent::attestation=debug.
func Served(log io.Reader, push bool, nonce string) (int, error) {
	words := [][2]string{{"nonce=" + nonce, "status=200"}, {"nonce=" + nonce, " result 200 "}}
	if push {
		challenge, err := hex.DecodeString(nonce)
		if err != nil {
			return 0, fmt.Errorf("challenge %q: %w", nonce, err)
		}
		words = [][2]string{
			{"challenge=" + nonce, "verdict=accepted"},
			{`"` + base64.StdEncoding.EncodeToString(challenge) + `"`, "> Response body: "}, // "PATCH Response body" has it again
		}
	}
	count := 0
	lines := bufio.NewScanner(log)
	lines.Buffer(nil, maxLogLine)
	for lines.Scan() {
		for _, w := range words {
			if strings.Contains(lines.Text(), w[0]) && strings.Contains(lines.Text(), w[1]) {
				count++
				break
			}
		}
	}
	if err := lines.Err(); err != nil {
		return 0, fmt.Errorf("read the agent's log: %w", err)
	}
	return count, nil
}
