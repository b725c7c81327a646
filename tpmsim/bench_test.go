package tpmsim

import (
	"context"
	"crypto"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sync/errgroup"
)

func placeholderCertificate(crypto.PublicKey, Algorithm) ([]byte, error) {
	return make([]byte, 1100), nil
}

// BenchmarkManufacture measures the making of one TPM from nothing: process, state, EK, certificate, orderly end.
func BenchmarkManufacture(b *testing.B) {
	for _, backend := range builtBackends() {
		for _, a := range Algorithms() {
			for _, seeded := range []bool{false, true} {
				b.Run(backend.Name()+"/"+string(a)+"/seeded="+strconv.FormatBool(seeded), func(b *testing.B) {
					for b.Loop() {
						manufactureOne(b, backend, a, b.TempDir(), seeded)
					}
				})
			}
		}
	}
}

// BenchmarkManufacture64 makes 64 TPMs, two at a time.
func BenchmarkManufacture64(b *testing.B) {
	for _, backend := range builtBackends() {
		for _, a := range Algorithms() {
			b.Run(backend.Name()+"/"+string(a), func(b *testing.B) {
				for b.Loop() {
					dir := b.TempDir()
					var g errgroup.Group
					g.SetLimit(2)
					for i := range 64 {
						g.Go(func() error {
							manufactureOne(b, backend, a, filepath.Join(dir, strconv.Itoa(i)), false)
							return nil
						})
					}
					if err := g.Wait(); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(b.Elapsed().Milliseconds())/float64(64*b.N), "ms/TPM")
			})
		}
	}
}

func manufactureOne(b *testing.B, backend Backend, a Algorithm, dir string, seeded bool) {
	b.Helper()
	ctx := context.Background()
	o := Options{Dir: dir, Backend: backend}
	if seeded {
		o.Seed = []byte(dir)
	}
	t, err := Open(ctx, o)
	if err != nil {
		b.Error(err)
		return
	}
	if _, err := t.Manufacture(ctx, ManufactureOptions{Algorithm: a, Certificate: placeholderCertificate}); err != nil {
		b.Error(err)
	}
	if err := t.Close(ctx); err != nil {
		b.Error(err)
	}
}
