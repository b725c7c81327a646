package fleet

import (
	"strings"
	"testing"
)

// The lines are those of real agents, shortened.
func TestServed(t *testing.T) {
	const challenge, other = "45b256de54b0840dc5a565903c0b5dac", "f92d3aff38060fb07c646c764d526d89" // RbJW3lSwhA3FpWWQPAtdrA== in base64
	for _, test := range []struct {
		name, log, nonce string
		push             bool
		want             int
	}{
		{"Go agent", "level=INFO msg=request method=GET nonce=abc status=200\nlevel=INFO msg=request nonce=abd status=200\n", "abc", false, 1},
		{"Go agent that refused", "level=INFO msg=request nonce=abc status=400\n", "abc", false, 0},
		{"Rust agent", "INFO keylime_agent > GET invoked, nonce=abc result 200 \n", "abc", false, 1},
		{"Go push agent", "msg=attestation verdict=accepted index=3 challenge=" + challenge + "\nmsg=attestation verdict=refused challenge=" + challenge + "\n", challenge, true, 1},
		{
			"Rust push agent", "DEBUG keylime_push_model_agent::attestation > Response body: {\"challenge\": \"RbJW3lSwhA3FpWWQPAtdrA==\"}\n" +
				"DEBUG keylime_push_model_agent::attestation > PATCH Response body: {\"challenge\": \"RbJW3lSwhA3FpWWQPAtdrA==\"}\n", challenge, true, 1,
		},
		{"another challenge", "msg=attestation verdict=accepted challenge=" + challenge + "\n", other, true, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got, err := Served(strings.NewReader(test.log), test.push, test.nonce); err != nil || got != test.want {
				t.Errorf("%d, %v; want %d", got, err, test.want)
			}
		})
	}
	if _, err := Served(strings.NewReader(""), true, "no hex"); err == nil {
		t.Error("a challenge that is no number is taken")
	}
}
