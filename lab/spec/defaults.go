package spec

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"time"
)

// DefaultNodes is the number of nodes in a lab that does not say.
const DefaultNodes = 3

// defaultEKValidity is as long as TPM makers' certificates commonly last at least.
const defaultEKValidity = Duration(10 * Year)

var (
	defaultServices = netip.MustParsePrefix("198.18.10.0/24")
	defaultCluster  = netip.MustParsePrefix("198.18.20.0/24")
	largeCluster    = netip.MustParsePrefix("198.18.20.0/22")
	defaultPods     = netip.MustParsePrefix("198.19.0.0/16")
	defaultKube     = netip.MustParsePrefix("198.18.96.0/20")
)

// DefaultKubernetes is the version of Kubernetes in a lab that does not say.
const DefaultKubernetes = "v1.34.3"

// Default returns the lab that a file with nothing but apiVersion and kind describes.
func Default() Spec {
	var s Spec
	s.SetDefaults()
	return s
}

// SetDefaults fills in everything that s leaves out. What one node leaves out stays so (EffectiveNodes puts it
// together), save for its name.
func (s *Spec) SetDefaults() {
	if s.APIVersion == "" {
		s.APIVersion = APIVersion
	}
	if s.Kind == "" {
		s.Kind = Kind
	}
	if s.Substrate == SubstrateKind && s.Timeouts.Ready == 0 {
		s.Timeouts.Ready = Duration(10 * time.Minute)
	}
	fillIn(reflect.ValueOf(s).Elem())

	if s.Nodes.List == nil && s.Nodes.Count == 0 {
		s.Nodes.Count = DefaultNodes
	}
	for i := range s.Nodes.List {
		if n := &s.Nodes.List[i]; n.Name == "" {
			n.Name = nodeName(i)
		}
	}
	if s.EKCA.EKValidity == 0 {
		s.EKCA.EKValidity = min(defaultEKValidity, s.EKCA.Validity)
	}
	net := &s.Networks
	if !net.Services.CIDR.IsValid() {
		net.Services.CIDR = defaultServices
	}
	if !net.Cluster.CIDR.IsValid() {
		net.Cluster.CIDR = defaultCluster
		small := ClusterNetwork{defaultCluster, nthAddress(defaultCluster, loadBalancerNumber)}
		if n := s.Nodes.Len(); n > small.Capacity() || s.Substrate == SubstrateKind && n > small.KindCapacity() {
			net.Cluster.CIDR = largeCluster
		}
	}
	if !net.Cluster.LoadBalancer.IsValid() {
		net.Cluster.LoadBalancer = nthAddress(net.Cluster.CIDR, loadBalancerNumber)
	}
	if net.Domain == "" {
		net.Domain = defaultDomain(s.Name)
	}
	s.setKindDefaults()
	for i := range net.Allow {
		f := &net.Allow[i]
		fillIn(reflect.ValueOf(f).Elem())
		if f.Name == "" {
			f.Name = fmt.Sprintf("allow-%d", i+1)
		}
	}
}

// setKindDefaults fills in what only a cluster has; where there is none it stays empty.
func (s *Spec) setKindDefaults() {
	if s.Substrate != SubstrateKind {
		return
	}
	k := &s.Kubernetes
	if k.Version == "" {
		k.Version = DefaultKubernetes
	}
	if !k.PodCIDR.IsValid() {
		k.PodCIDR = defaultPods
	}
	if !k.ServiceCIDR.IsValid() {
		k.ServiceCIDR = defaultKube
	}
	if s.Ingress.Class == "" {
		s.Ingress.Class = IngressKeylab
	}
	if s.Images.Source == "" {
		s.Images.Source = ImagesAuto
	}
}

func defaultDomain(lab string) string { return "agents." + lab + ".test" }

// fillIn puts the fixed defaults of the tags into the empty fields of v and of the structs in it, not of lists.
func fillIn(v reflect.Value) {
	for _, f := range fieldsOf(v.Type()) {
		fv := v.Field(f.index)
		if fv.Kind() == reflect.Struct && !isScalar(fv.Type()) && fv.Type() != typeNodes {
			fillIn(fv)
			continue
		}
		if f.rules.def != "" && fv.IsZero() {
			setDefault(fv, f.rules.def)
		}
	}
}

// setDefault sets v from a tag's text. The texts are constants of types.go, so a wrong one is found by the tests.
func setDefault(v reflect.Value, text string) {
	if v.Kind() == reflect.Pointer {
		v.Set(reflect.New(v.Type().Elem()))
		v = v.Elem()
	}
	switch {
	case v.Type() == typeDuration:
		d, _ := ParseDuration(text)
		v.SetInt(int64(d))
	case v.Kind() == reflect.Int:
		n, _ := strconv.Atoi(text)
		v.SetInt(int64(n))
	case v.Kind() == reflect.Bool:
		v.SetBool(text == "true")
	case v.Kind() == reflect.String:
		v.SetString(text)
	}
}

// clone returns a copy of s that SetDefaults can complete without touching s.
func (s Spec) clone() Spec {
	s.Nodes.List = slices.Clone(s.Nodes.List)
	s.Networks.Allow = slices.Clone(s.Networks.Allow)
	return s
}

// The numbers of addresses in each network, counted from the network's own address: .2, .53 and so on in a /24.
const (
	firstNodeNumber    = 11
	dnsNumber          = 53
	loadBalancerNumber = 200
)

// Capacity returns how many nodes fit into the network: they have the addresses from number 11 upward, without number 53
// (kept for DNS), the load balancer's and the last one (broadcast). It is 0 for a network that is not IPv4.
func (c ClusterNetwork) Capacity() int {
	if !c.CIDR.IsValid() || !c.CIDR.Addr().Is4() {
		return 0
	}
	size := 1 << (32 - c.CIDR.Bits())
	free := max(0, size-1-firstNodeNumber)
	if dnsNumber < size-1 {
		free--
	}
	if c.LoadBalancer.IsValid() && c.CIDR.Contains(c.LoadBalancer) {
		n := addressNumber(c.CIDR, c.LoadBalancer)
		if n >= firstNodeNumber && n < size-1 && n != dnsNumber {
			free--
		}
	}
	return max(0, free)
}

// addressNumber returns the place of addr in the IPv4 network p, 0 being the network's own address.
func addressNumber(p netip.Prefix, addr netip.Addr) int {
	base, a := p.Masked().Addr().As4(), addr.As4()
	return int(binary.BigEndian.Uint32(a[:]) - binary.BigEndian.Uint32(base[:]))
}

// nthAddress returns address number n of the network p, or p's last one before the broadcast address when p is smaller;
// the zero Addr when p is not IPv4.
func nthAddress(p netip.Prefix, n int) netip.Addr {
	if !p.IsValid() || !p.Addr().Is4() {
		return netip.Addr{}
	}
	size := 1 << (32 - p.Bits())
	base := p.Masked().Addr().As4()
	var out [4]byte
	binary.BigEndian.PutUint32(out[:], binary.BigEndian.Uint32(base[:])+uint32(max(0, min(n, size-2))))
	return netip.AddrFrom4(out)
}
