package bench

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"keylab.dev/keylab/ekca"
	"keylab.dev/keylab/tpmsim"
)

// manufactureAim is what making one TPM should cost at most, ms.
const manufactureAim = 60

// setupEvery is how many TPMs are made between two runs of swtpm_setup.
const setupEvery = 8

// factory makes TPMs with EK certificates by a CA of its own.
type factory struct {
	dir     string
	backend tpmsim.Backend
	ca      *ekca.CA
	mu      sync.Mutex
	made    int
}

func newFactory(dir, backend string) (*factory, error) {
	b, err := tpmsim.Select(backend)
	if err != nil {
		return nil, err
	}
	ca, err := ekca.Create(filepath.Join(dir, "ekca"), ekca.DefaultConfig())
	if err != nil {
		return nil, err
	}
	return &factory{dir: dir, backend: b, ca: ca}, nil
}

// makeOne makes a TPM from nothing and measures that: state folder, process, EK of each algorithm, certificate by the CA, NV, and the
// orderly end, after which its folder is complete.
func (f *factory) makeOne(ctx context.Context, algorithms ...tpmsim.Algorithm) (time.Duration, error) {
	f.mu.Lock()
	f.made++
	name := "tpm-" + strconv.Itoa(f.made)
	f.mu.Unlock()
	dir := filepath.Join(f.dir, name)
	began := time.Now()
	t, err := tpmsim.Open(ctx, tpmsim.Options{Name: name, Dir: dir, Backend: f.backend})
	if err != nil {
		return 0, err
	}
	for _, a := range algorithms {
		_, err = t.Manufacture(ctx, tpmsim.ManufactureOptions{Algorithm: a, Certificate: func(ek crypto.PublicKey, _ tpmsim.Algorithm) ([]byte, error) {
			cert, err := f.ca.Issue(ekca.Request{Public: ek, Label: name, TPM: ekca.SimulatedModel()})
			if err != nil {
				return nil, err
			}
			return cert.Raw, nil
		}})
		if err != nil {
			break
		}
	}
	if err := errors.Join(err, t.Close(ctx)); err != nil {
		return 0, err
	}
	took := time.Since(began)
	return took, os.RemoveAll(dir)
}

// oneByOne makes n TPMs and gives the milliseconds of each. between is called after every few, for what is compared.
func (f *factory) oneByOne(ctx context.Context, n int, between func() error, algorithms ...tpmsim.Algorithm) ([]float64, error) {
	var each []float64
	for i := range n {
		took, err := f.makeOne(ctx, algorithms...)
		if err != nil {
			return nil, err
		}
		each = append(each, milliseconds(took))
		if between != nil && i%setupEvery == setupEvery-1 {
			if err := between(); err != nil {
				return nil, err
			}
		}
	}
	return each, nil
}

// atOnce makes n TPMs, as many at a time as there are processors, and gives the milliseconds by which each lengthened the whole.
func (f *factory) atOnce(ctx context.Context, n int, algorithms ...tpmsim.Algorithm) (float64, error) {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.NumCPU())
	began := time.Now()
	for range n {
		group.Go(func() error {
			_, err := f.makeOne(ctx, algorithms...)
			return err
		})
	}
	err := group.Wait()
	return milliseconds(time.Since(began)) / float64(n), err
}

// measureManufacture makes TPMs with keylab and with swtpm_setup.
func (r *runner) measureManufacture(ctx context.Context) error {
	n := r.options.TPMs
	section := Section{Title: fmt.Sprintf("manufacture of %d TPMs: state, EK, EK certificate in NV", n)}
	dir, err := os.MkdirTemp(r.dir, "factory-")
	if err != nil {
		return fmt.Errorf("make a folder for TPMs: %w", err)
	}
	defer os.RemoveAll(dir)
	f, err := newFactory(dir, "swtpm")
	if err != nil {
		section.say("not measured: %v", err)
		r.report.Sections = append(r.report.Sections, section)
		return nil
	}
	setup, setupErr := newSwtpmSetup(ctx, filepath.Join(dir, "swtpm_setup"))
	var setups []float64
	between := func() error {
		if setupErr != nil {
			return nil
		}
		took, err := setup.makeOne(ctx)
		setups = append(setups, milliseconds(took))
		return err
	}
	for _, a := range tpmsim.Algorithms() {
		r.progress("manufacture of TPMs: %s", a)
		each, err := f.oneByOne(ctx, n, nil, a)
		if err != nil {
			return fmt.Errorf("manufacture TPMs one by one: %w", err)
		}
		rate, err := f.atOnce(ctx, n, a)
		if err != nil {
			return fmt.Errorf("manufacture TPMs at once: %w", err)
		}
		section.add(
			distribution(fmt.Sprintf("%s EK, one by one", a), "ms", each).aim(manufactureAim),
			repeated(fmt.Sprintf("%s EK, %d at once, for each", a, runtime.NumCPU()), "ms", []float64{rate}).aim(manufactureAim),
		)
	}
	r.progress("manufacture of TPMs: both EKs, beside swtpm_setup")
	both, err := f.oneByOne(ctx, max(n/2, setupEvery), between, tpmsim.Algorithms()...)
	if err != nil {
		return fmt.Errorf("manufacture TPMs with both EKs, and with swtpm_setup: %w", err)
	}
	section.add(distribution("both EKs in one TPM, one by one", "ms", both))
	if setupErr != nil {
		section.say("swtpm_setup: not measured: %v", setupErr)
	} else {
		section.add(distribution("swtpm_setup, one by one", "ms", setups).note("makes two EKs and certificates always: RSA-2048 and ECC P-384"))
		section.add(repeated("ratio swtpm_setup / both EKs", "x", []float64{Summarize(setups).Median / Summarize(both).Median}))
	}
	r.report.Sections = append(r.report.Sections, section)
	return nil
}
