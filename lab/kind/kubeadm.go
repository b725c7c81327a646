package kind

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// worker is what one more worker tells kubeadm of itself.
type worker struct {
	name    string // of its container, and of its node
	cluster string // kind's name of it
	address netip.Addr
	labels  map[string]string
	token   string
}

// joinConfig makes of kubeadm's configuration as kind writes it for each node (pkg/cluster/internal/kubeadm/config.go), several documents, that by which a
// worker joins. Who the cluster is it is told by a file, which needs no wait for a signature of its administrator.
func joinConfig(ofNode []byte, w worker) ([]byte, error) {
	documents := yaml.NewDecoder(bytes.NewReader(ofNode))
	for {
		var d map[string]any
		err := documents.Decode(&d)
		if errors.Is(err, io.EOF) {
			return nil, errors.New("it has no JoinConfiguration")
		}
		if err != nil {
			return nil, fmt.Errorf("read what kubeadm is told: %w", err)
		}
		if d["kind"] != "JoinConfiguration" {
			continue
		}
		registration, ok := d["nodeRegistration"].(map[string]any)
		if !ok {
			return nil, errors.New("its JoinConfiguration has no nodeRegistration")
		}
		args, ok := registration["kubeletExtraArgs"].(map[string]any)
		if !ok {
			return nil, errors.New("the kubeletExtraArgs of its JoinConfiguration are no map: another version of kind has written it than keylab knows")
		}
		delete(d, "controlPlane")
		args["node-ip"], args["node-labels"] = w.address.String(), labelList(w.labels)
		args["provider-id"] = "kind://docker/" + w.cluster + "/" + w.name
		registration["name"] = w.name
		d["discovery"] = map[string]any{"file": map[string]any{"kubeConfigPath": discoveryConfig}, "tlsBootstrapToken": w.token}
		return yaml.Marshal(d)
	}
}

// labelList is labels as the kubelet takes them.
func labelList(labels map[string]string) string {
	var list []string
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		list = append(list, key+"="+labels[key])
	}
	return strings.Join(list, ",")
}

// token is a bootstrap token: who shows it may ask for a node's certificate (Kubernetes, "Authenticating with Bootstrap Tokens").
type token struct{ id, secret string }

func (t token) String() string { return t.id + "." + t.secret }

// tokenValid is how long one is good at most.
const tokenValid = 15 * time.Minute

func newToken() (token, error) {
	random := make([]byte, 11) // six and sixteen hexadecimal digits
	if _, err := rand.Read(random); err != nil {
		return token{}, fmt.Errorf("make a bootstrap token: %w", err)
	}
	digits := hex.EncodeToString(random)
	return token{digits[:6], digits[6:]}, nil
}

// admit makes a token known to the cluster; dismiss has it forgotten.
func (k *kube) admit(ctx context.Context, t token) error {
	_, err := k.typed.CoreV1().Secrets(metav1.NamespaceSystem).Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: t.secretName()}, Type: "bootstrap.kubernetes.io/token",
		StringData: map[string]string{
			"token-id": t.id, "token-secret": t.secret, "expiration": time.Now().Add(tokenValid).UTC().Format(time.RFC3339),
			"usage-bootstrap-authentication": "true", "auth-extra-groups": "system:bootstrappers:kubeadm:default-node-token",
			"description": "for a node that joins the lab",
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("make a bootstrap token: %w", err)
	}
	return nil
}

func (k *kube) dismiss(ctx context.Context, t token) error {
	err := k.typed.CoreV1().Secrets(metav1.NamespaceSystem).Delete(ctx, t.secretName(), metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete the bootstrap token: %w", err)
	}
	return nil
}

func (t token) secretName() string { return "bootstrap-token-" + t.id }

// clusterInfo is where the API server is and by which CA it is known, as a kubeconfig without a user: what kubeadm tells everybody.
func (k *kube) clusterInfo(ctx context.Context) ([]byte, error) {
	info, err := k.typed.CoreV1().ConfigMaps(metav1.NamespacePublic).Get(ctx, "cluster-info", metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("ask the cluster who it is: %w", err)
	}
	if info.Data["kubeconfig"] == "" {
		return nil, errors.New("the ConfigMap cluster-info has no kubeconfig")
	}
	return []byte(info.Data["kubeconfig"]), nil
}
