package bench

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"keylab.dev/keylab/agent"
	"keylab.dev/keylab/keylime"
)

// ClientCommand is the first argument by which a program that calls Run is started again inside a lab; main must then call
// [RunClient] with its standard input and output.
const ClientCommand = "ask-for-quotes"

// quoteOrder says whom to ask, and how often.
type quoteOrder struct {
	UUID      string `json:"uuid"`
	Address   string `json:"address"`   // host name and port, of the ingress
	Registrar string `json:"registrar"` // its mutual TLS port
	PKI       string `json:"pki"`       // folder of Keylime's certificates
	Count     int    `json:"count"`
}

// quoteLatencies are milliseconds from the first packet to the last byte of the answer.
type quoteLatencies struct {
	Fresh []float64 `json:"fresh"` // with a new connection and a full TLS handshake each, as Keylime's verifier does
	Kept  []float64 `json:"kept"`  // over one connection
}

// warmUp is the number of requests that come first and do not count.
const warmUp = 5

// requestTimeout bounds one quote.
const requestTimeout = 10 * time.Second

// RunClient reads an order (JSON), asks for quotes, one at a time, and writes the latencies (JSON). Every quote is checked as a
// verifier would: signed by the registered AK over this request's nonce.
func RunClient(ctx context.Context, in io.Reader, out io.Writer) error {
	var order quoteOrder
	if err := json.NewDecoder(in).Decode(&order); err != nil {
		return fmt.Errorf("read the order: %w", err)
	}
	pki, err := keylime.OpenPKI(order.PKI)
	if err != nil {
		return err
	}
	registered, err := order.registered(ctx, pki)
	if err != nil {
		return err
	}
	config := pki.ClientTLS()
	config.RootCAs = x509.NewCertPool()
	config.RootCAs.AddCert(registered.MTLSCert)
	c := quoteClient{order: order, ak: registered.AIKTPM}
	var latencies quoteLatencies
	if latencies.Fresh, err = c.series(ctx, config, true); err != nil {
		return err
	}
	if latencies.Kept, err = c.series(ctx, config, false); err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(latencies)
}

type quoteClient struct {
	order quoteOrder
	ak    []byte // TPM2B_PUBLIC
}

// series asks Count times and gives the latencies.
func (c quoteClient) series(ctx context.Context, config *tls.Config, fresh bool) ([]float64, error) {
	transport := &http.Transport{TLSClientConfig: config, DisableKeepAlives: fresh, DialContext: (&net.Dialer{}).DialContext}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	var latencies []float64
	for i := range warmUp + c.order.Count {
		took, err := c.one(ctx, client)
		if err != nil {
			return nil, fmt.Errorf("request %d of %s: %w", i+1, c.order.Address, err)
		}
		if i >= warmUp {
			latencies = append(latencies, milliseconds(took))
		}
	}
	return latencies, nil
}

// one asks for a quote and checks it; the checking is not part of the time.
func (c quoteClient) one(ctx context.Context, client *http.Client) (time.Duration, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, requestTimeout, fmt.Errorf("no quote within %s", requestTimeout))
	defer cancel()
	nonce := rand.Text()[:20]
	url := "https://" + c.order.Address + "/v2.6/quotes/integrity?nonce=" + nonce + "&mask=0x10000&partial=0"
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	response, err := client.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	took := time.Since(began)
	if err != nil {
		return 0, err
	}
	if response.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("%s: %s", response.Status, body)
	}
	_, err = agent.CheckAnswer(body, c.ak, nonce)
	return took, err
}
