package kind

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// What MetalLB's controller calls the certificates of its webhooks (internal/k8s/k8s.go and webhook.go in MetalLB 0.15), and looks for in the Secret.
const (
	webhookSecret = "metallb-webhook-cert"
	webhookCA     = "cert"
	webhookName   = "metallb-webhook-service.metallb-system.svc"
	// webhookYears is more than a lab lasts: the controller renews what ends within 90 days.
	webhookYears = 10
)

// certifyWebhooks fills the Secret of MetalLB's webhooks. Its controller would make the same, but then begins only when the kubelet has given its pod the Secret
// again, which may take a minute, or until it is killed for not being alive.
func certifyWebhooks(secret *unstructured.Unstructured) error {
	now := time.Now()
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: webhookCA, Organization: []string{"metallb"}}, DNSNames: []string{webhookCA},
		NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(webhookYears, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true,
	}
	server := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: webhookName}, DNSNames: []string{webhookName},
		NotBefore: ca.NotBefore, NotAfter: ca.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true,
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048) // the controller reads nothing else
	if err != nil {
		return fmt.Errorf("make a key for MetalLB's webhooks: %w", err)
	}
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
	data := map[string]any{}
	for name, c := range map[string]*x509.Certificate{"ca": ca, "tls": server} {
		der, err := x509.CreateCertificate(rand.Reader, c, ca, key.Public(), key)
		if err != nil {
			return fmt.Errorf("make a certificate for MetalLB's webhooks: %w", err)
		}
		data[name+".crt"] = base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
		data[name+".key"] = base64.StdEncoding.EncodeToString(keyPEM)
	}
	return unstructured.SetNestedMap(secret.Object, data, "data")
}
