package agent

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"slices"
	"time"
)

// serverCertLife is how long a self-made server certificate is valid; the Rust
// agent's are valid as long. It is renewed at New in its last serverCertRenew.
const (
	serverCertLife  = 365 * 24 * time.Hour
	serverCertRenew = 30 * 24 * time.Hour
)

// payloadKey returns the given, saved or a new RSA-2048 key.
func payloadKey(cfg *Config, dir stateDir) (*rsa.PrivateKey, error) {
	if cfg.PayloadKey != nil {
		return cfg.PayloadKey, nil
	}
	saved, err := dir.readKey(filePayloadKey)
	if err != nil {
		return nil, err
	}
	if key, ok := saved.(*rsa.PrivateKey); ok && key.N.BitLen() == 2048 {
		return key, nil
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, fmt.Errorf("generating the payload key: %w", err)
	}
	return key, dir.writeKey(filePayloadKey, key)
}

// serverCertificate returns the saved server certificate if it still fits, else
// a new one. Keylime's verifier pins exactly the certificate that was registered,
// so a changed one needs a new registration and a new "tenant add".
func serverCertificate(cfg *Config, dir stateDir, uuid string, now time.Time) (*tls.Certificate, error) {
	if cfg.ServerCertificate != nil {
		return cfg.ServerCertificate, nil
	}
	key, err := dir.readKey(fileServerKey)
	if err != nil {
		return nil, err
	}
	names := serverNames(cfg)
	if key != nil {
		cert, err := savedServerCertificate(dir, key)
		if err != nil {
			return nil, err
		}
		if cert != nil && certificateFits(cert.Leaf, uuid, names, now) {
			return cert, nil
		}
	} else {
		fresh, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, fmt.Errorf("generating the server key: %w", err)
		}
		if err := dir.writeKey(fileServerKey, fresh); err != nil {
			return nil, err
		}
		key = fresh
	}
	der, err := selfSign(key, uuid, names, now)
	if err != nil {
		return nil, err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if err := dir.write(fileServerCert, text); err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("reading back the server certificate: %w", err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}

// savedServerCertificate returns nil without an error when there is none for key.
func savedServerCertificate(dir stateDir, key crypto.Signer) (*tls.Certificate, error) {
	text, err := dir.read(fileServerCert)
	if err != nil || text == nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("%s in %s holds no PEM certificate (delete it to make a new one)", fileServerCert, dir)
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s in %s: %w (delete it to make a new one)", fileServerCert, dir, err)
	}
	if public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(leaf.PublicKey) {
		return nil, nil
	}
	return &tls.Certificate{Certificate: [][]byte{block.Bytes}, PrivateKey: key, Leaf: leaf}, nil
}

// names are the subject alternative names of a server certificate.
type names struct {
	dns []string
	ips []net.IP
}

// serverNames adds the loopback names, as the Rust agent does.
func serverNames(cfg *Config) names {
	n := names{dns: []string{"localhost"}, ips: []net.IP{net.IPv4(127, 0, 0, 1).To4(), net.IPv6loopback}}
	for _, name := range cfg.Hostnames {
		if ip := net.ParseIP(name); ip != nil {
			if v4 := ip.To4(); v4 != nil {
				ip = v4
			}
			if !slices.ContainsFunc(n.ips, ip.Equal) {
				n.ips = append(n.ips, ip)
			}
		} else if !slices.Contains(n.dns, name) {
			n.dns = append(n.dns, name)
		}
	}
	return n
}

func certificateFits(cert *x509.Certificate, uuid string, want names, now time.Time) bool {
	return cert.Subject.CommonName == uuid &&
		slices.Equal(cert.DNSNames, want.dns) &&
		slices.EqualFunc(cert.IPAddresses, want.ips, net.IP.Equal) &&
		now.After(cert.NotBefore) && now.Add(serverCertRenew).Before(cert.NotAfter)
}

// selfSign makes the certificate that the agent registers (mtls_cert).
func selfSign(key crypto.Signer, uuid string, n names, now time.Time) ([]byte, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("choosing a serial number: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: serial.Add(serial, big.NewInt(1)),
		Subject:      pkix.Name{CommonName: uuid},
		NotBefore:    now.Add(-time.Hour), // clocks of a fleet differ
		NotAfter:     now.Add(serverCertLife),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:     n.dns,
		IPAddresses:  n.ips,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("making the server certificate for %s: %w", uuid, err)
	}
	return der, nil
}
