package tpmsim

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"
)

// serveTCTI serves the TPM on a pair of neighbouring loopback ports and returns the first.
func serveTCTI(t testing.TB, tpm *TPM) int {
	t.Helper()
	data, ctrl := listenPair(t)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- tpm.ServeTCTI(ctx, data, ctrl) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("ServeTCTI: %v", err)
		}
	})
	return data.Addr().(*net.TCPAddr).Port
}

func listenPair(t testing.TB) (data, ctrl net.Listener) {
	t.Helper()
	for range 100 {
		data, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ctrl, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", data.Addr().(*net.TCPAddr).Port+1))
		if err == nil {
			return data, ctrl
		}
		data.Close()
	}
	t.Fatal("no two neighbouring free ports")
	return nil, nil
}

// tool runs one of tpm2-tools in dir on the TPM at port.
func tool(t testing.TB, dir string, port int, argv ...string) []byte {
	t.Helper()
	if _, err := exec.LookPath(argv[0]); err != nil {
		t.Skipf("%s is missing: apt install tpm2-tools", argv[0])
	}
	cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), fmt.Sprintf("TPM2TOOLS_TCTI=swtpm:host=127.0.0.1,port=%d", port))
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%q: %v\n%s%s", argv, err, out.Bytes(), errs.Bytes())
	}
	return out.Bytes()
}

// The tools that people use must find the EK and the certificate where they look for them.
func TestToolsSeeTheManufacturedTPM(t *testing.T) {
	forEachBackend(t, func(t *testing.T, b Backend) {
		for a, name := range map[Algorithm]string{EKRSA2048: "rsa", EKECCP256: "ecc"} {
			t.Run(string(a), func(t *testing.T) {
				tpm := openTPM(t, Options{Backend: b})
				id := manufacture(t, tpm, a)
				port := serveTCTI(t, tpm)
				dir := t.TempDir()
				p, err := profileOf(a)
				if err != nil {
					t.Fatal(err)
				}
				if got := tool(t, dir, port, "tpm2_nvread", fmt.Sprintf("%#x", p.certificate)); !bytes.Equal(got, id.Certificate) {
					t.Errorf("tpm2_nvread gives %d bytes, not the certificate of %d", len(got), len(id.Certificate))
				}
				tool(t, dir, port, "tpm2_getekcertificate", "-o", "ek.der")
				if got, err := os.ReadFile(filepath.Join(dir, "ek.der")); err != nil || !bytes.Equal(got, id.Certificate) {
					t.Errorf("tpm2_getekcertificate gives %d bytes (%v)", len(got), err)
				}
				tool(t, dir, port, "tpm2_createek", "-G", name, "-c", "ek.ctx", "-u", "ek.pem", "-f", "pem")
				wantPEM(t, filepath.Join(dir, "ek.pem"), id)
				tool(t, dir, port, "tpm2_readpublic", "-c", fmt.Sprintf("%#x", p.persistent), "-f", "pem", "-o", "persistent.pem")
				wantPEM(t, filepath.Join(dir, "persistent.pem"), id)
			})
		}
	})
}

func wantPEM(t *testing.T, path string, id *Identity) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want, err := x509.MarshalPKIXPublicKey(id.Public)
	if err != nil {
		t.Fatal(err)
	}
	if block, _ := pem.Decode(text); block == nil || !bytes.Equal(block.Bytes, want) {
		t.Errorf("%s is not the EK", filepath.Base(path))
	}
}

// The whole way of an agent by tools: an AK under the EK, which needs policy sessions kept in files between processes; many
// times over, for each leaves objects behind.
func TestToolsMakeAKsAndQuote(t *testing.T) {
	forEachBackend(t, func(t *testing.T, b Backend) {
		tpm := openTPM(t, Options{Backend: b})
		manufacture(t, tpm, EKECCP256)
		port := serveTCTI(t, tpm)
		dir := t.TempDir()
		// A client of the same TPM in this process with objects of its own.
		c := tpm.Client()
		defer c.Close()
		key := createKey(t, c)
		handle := key.load(t, c)
		tool(t, dir, port, "tpm2_createek", "-G", "ecc", "-c", "ek.ctx")
		for range 5 {
			tool(t, dir, port, "tpm2_createak", "-C", "ek.ctx", "-c", "ak.ctx", "-G", "ecc", "-g", "sha256", "-s", "ecdsa", "-u", "ak.pem", "-f", "pem")
			tool(t, dir, port, "tpm2_quote", "-c", "ak.ctx", "-l", "sha256:0,16", "-q", "abcd", "-m", "m", "-s", "s", "-o", "p", "-g", "sha256")
			tool(t, dir, port, "tpm2_checkquote", "-u", "ak.pem", "-m", "m", "-s", "s", "-f", "p", "-q", "abcd", "-g", "sha256")
			if err := key.quote(c, handle); err != nil {
				t.Fatalf("the other client: %v", err)
			}
		}
		tool(t, dir, port, "tpm2_flushcontext", "-t")
		if out := tool(t, dir, port, "tpm2_getcap", "handles-transient"); len(bytes.TrimSpace(out)) != 0 {
			t.Errorf("after tpm2_flushcontext -t there is %s", out)
		}
		if err := key.quote(c, handle); err != nil {
			t.Errorf("tpm2_flushcontext -t reached another client: %v", err)
		}
		tool(t, dir, port, "tpm2_startup", "-c") // answered by TPM_RC_INITIALIZE, which the tool takes for success
		tool(t, dir, port, "tpm2_pcrextend", "16:sha256="+strings.Repeat("11", 32))
		values, err := tpm.ReadPCRs(t.Context(), tpm2.TPMAlgSHA256, 16)
		if err != nil || bytes.Equal(values[16], make([]byte, 32)) {
			t.Errorf("PCR 16 is %x (%v)", values[16], err)
		}
		tool(t, dir, port, "tpm2_pcrreset", "16")
		values, err = tpm.ReadPCRs(t.Context(), tpm2.TPMAlgSHA256, 16)
		if err != nil || !bytes.Equal(values[16], make([]byte, 32)) {
			t.Errorf("after a reset PCR 16 is %x (%v)", values[16], err)
		}
	})
}

func TestTCTIDropsWhatIsTooMuch(t *testing.T) {
	tpm := openTPM(t, Options{Backend: Swtpm()})
	port := serveTCTI(t, tpm)
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for range tctiMaxObjects + 5 {
		createSRK(t, connTPM{conn})
	}
	if list := ownHandles(t, connTPM{conn}, 0x80000000); len(list) != tctiMaxObjects {
		t.Errorf("%d objects, want %d", len(list), tctiMaxObjects)
	}
	for range tctiMaxSessions + 70 { // more than the TPM's 64
		if _, _, err := tpm2.PolicySession(connTPM{conn}, tpm2.TPMAlgSHA256, 16); err != nil {
			t.Fatal(err)
		}
	}
	if list := ownHandles(t, connTPM{conn}, 0x02000000); len(list) != tctiMaxSessions {
		t.Errorf("%d sessions, want %d", len(list), tctiMaxSessions)
	}
}

type connTPM struct{ net.Conn }

func (c connTPM) Send(command []byte) ([]byte, error) {
	if _, err := c.Write(command); err != nil {
		return nil, err
	}
	return readMessage(c)
}

// A client that talks nonsense loses its own connection and nothing else.
func TestTCTIBadSizeEndsOneConnection(t *testing.T) {
	tpm := openTPM(t, Options{Backend: Swtpm()})
	port := serveTCTI(t, tpm)
	dial := func() net.Conn {
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	bad, good := dial(), dial()
	if _, err := bad.Write([]byte{0x80, 1, 0, 0, 0, 3, 0, 0, 0, 0}); err != nil {
		t.Fatal(err)
	}
	response, err := io.ReadAll(bad)
	if err != nil || len(response) != headerSize || messageCode(response) != rcCommandSize {
		t.Errorf("response %x (%v), want TPM_RC_COMMAND_SIZE and the end", response, err)
	}
	if response, err := (connTPM{good}).Send(newCommand(ccGetRandom, []byte{0, 8})); err != nil || messageCode(response) != rcSuccess {
		t.Errorf("another connection: %x, %v", response, err)
	}
}

func TestTCTIControl(t *testing.T) {
	tpm := openTPM(t, Options{Backend: Swtpm()})
	port := serveTCTI(t, tpm)
	pid := tpm.PID()
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port+1))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, tc := range []struct {
		name         string
		send, expect []byte
	}{
		{"INIT", []byte{0, 0, 0, 2, 0, 0, 0, 0}, []byte{0, 0, 0, 0}},
		{"SHUTDOWN", []byte{0, 0, 0, 3}, []byte{0, 0, 0, 0}},
		{"STOP", []byte{0, 0, 0, 0xe}, []byte{0, 0, 0, 0}},
		{"CANCEL", []byte{0, 0, 0, 9}, []byte{0, 0, 0, 0}},
		{"SET_LOCALITY 0", []byte{0, 0, 0, 5, 0}, []byte{0, 0, 0, 0}},
		{"SET_LOCALITY 0, padded", []byte{0, 0, 0, 5, 0, 0, 0, 0}, []byte{0, 0, 0, 0}},
		{"SET_LOCALITY 3", []byte{0, 0, 0, 5, 3}, []byte{0, 0, 0, 0x3d}},
		{"GET_CAPABILITY", []byte{0, 0, 0, 1}, []byte{0, 0, 0, 0, 0, 0, 0x2c, 0xaf}},
		{"SET_BUFFERSIZE", []byte{0, 0, 0, 0x11, 0, 0, 0, 0}, []byte{0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0x10, 0, 0, 0, 0x10, 0}},
		{"unknown", []byte{0, 0, 0, 0x40}, []byte{0, 0, 0, 0xa}},
	} {
		if _, err := conn.Write(tc.send); err != nil {
			t.Fatalf("%s: %v", tc.name, err)
		}
		got := make([]byte, len(tc.expect))
		if _, err := io.ReadFull(conn, got); err != nil || !bytes.Equal(got, tc.expect) {
			t.Errorf("%s: answer %x (%v), want %x", tc.name, got, err, tc.expect)
		}
	}
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("after an unknown message the connection goes on: %v", err)
	}
	if tpm.PID() != pid || !tpm.Alive() {
		t.Error("a control message ended the TPM")
	}
}

// A program that is no tool of tpm2-tools gets to the TPM by the same TCTI.
func TestDialTCTI(t *testing.T) {
	forEachBackend(t, func(t *testing.T, b Backend) {
		port := serveTCTI(t, openTPM(t, Options{Backend: b}))
		for _, tcti := range []string{fmt.Sprintf("swtpm:host=127.0.0.1,port=%d", port), fmt.Sprintf("swtpm:port=%d", port)} {
			c, err := DialTCTI(t.Context(), tcti)
			if err != nil {
				t.Fatal(err)
			}
			got, err := tpm2.GetRandom{BytesRequested: 8}.Execute(c)
			if err != nil || len(got.RandomBytes.Buffer) != 8 {
				t.Errorf("%s: %v, %v", tcti, got, err)
			}
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	for tcti, ok := range map[string]bool{"swtpm": true, "swtpm:": true, "mssim:port=1": false, "swtpm:path=/x": false, "swtpm:port=": false, "": false} {
		if err := CheckTCTI(tcti); (err == nil) != ok {
			t.Errorf("%q: %v", tcti, err)
		}
	}
}

// When a listener fails by itself, whoever serves must hear of it.
func TestServeTCTIReportsALostListener(t *testing.T) {
	tpm := openTPM(t, Options{Backend: Swtpm()})
	data, ctrl := listenPair(t)
	served := make(chan error, 1)
	go func() { served <- tpm.ServeTCTI(t.Context(), data, ctrl) }()
	ctrl.Close()
	if err := <-served; !errors.Is(err, net.ErrClosed) || !strings.Contains(err.Error(), "control port") {
		t.Errorf("error is %v, want that the control port was closed", err)
	}
	if _, err := net.Dial("tcp", data.Addr().String()); err == nil {
		t.Error("the data port is still served")
	}
}
