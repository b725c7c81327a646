package keylime

import (
	"testing"
	"time"
)

// BenchmarkTenantCommand is the cost of one command of the tenant beyond what it waits for: version negotiation and a list.
func BenchmarkTenantCommand(b *testing.B) {
	kl := services(b, nil)
	en := enroller(b, kl, EnrollerOptions{})
	if _, err := en.Ready(b.Context()); err != nil {
		b.Fatal(err)
	}
	b.ResetTimer()
	for b.Loop() {
		if res, err := en.Run(b.Context(), "-c", "cvlist"); err != nil || !res.OK {
			b.Fatal(res, err)
		}
	}
}

// BenchmarkEnsureInstalled is a warm start.
func BenchmarkEnsureInstalled(b *testing.B) {
	for b.Loop() {
		installed(b)
	}
}

// BenchmarkStart is from the start of both services to the answer of both, and to their end.
func BenchmarkStart(b *testing.B) {
	var up time.Duration
	for b.Loop() {
		start := time.Now()
		kl := services(b, nil)
		_ = kl
		up += time.Since(start)
	}
	b.ReportMetric(up.Seconds()/float64(b.N), "s/start")
}
