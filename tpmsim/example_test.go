package tpmsim_test

import (
	"context"
	"crypto"
	"fmt"
	"os"

	"github.com/google/go-tpm/tpm2"

	"keylab.dev/keylab/tpmsim"
)

func Example() {
	if err := useTPM(context.Background()); err != nil {
		fmt.Println(err)
	}
	// Output:
	// rsa2048 EK with a certificate of 16 bytes
	// 8 random bytes
}

func useTPM(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "tpm")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	t, err := tpmsim.Open(ctx, tpmsim.Options{Name: "example", Dir: dir, Backend: tpmsim.Swtpm()})
	if err != nil {
		return err
	}
	defer t.Close(ctx)
	id, err := t.Manufacture(ctx, tpmsim.ManufactureOptions{
		Algorithm: tpmsim.EKRSA2048,
		Certificate: func(crypto.PublicKey, tpmsim.Algorithm) ([]byte, error) {
			return []byte("a CA's signature"), nil
		},
	})
	if err != nil {
		return err
	}
	fmt.Println(id.Algorithm, "EK with a certificate of", len(id.Certificate), "bytes")
	c := t.Client()
	defer c.Close()
	r, err := tpm2.GetRandom{BytesRequested: 8}.Execute(c)
	if err != nil {
		return err
	}
	fmt.Println(len(r.RandomBytes.Buffer), "random bytes")
	return nil
}
