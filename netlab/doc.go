// Package netlab builds networks out of Linux kernel parts on one machine:
// network namespaces as hosts, bridges as switches, veth pairs as cables, a
// router with an allow list that counts, a DNS server, and an ingress that
// passes TLS on by server name. It needs neither Docker nor root: inside a user
// namespace of its own, a normal user can do all of it.
//
//	lab, err := netlab.Build(ctx, "/run/netns", netlab.Topology{
//		Networks: []netlab.Network{
//			{Name: "services", Prefix: netip.MustParsePrefix("198.18.10.0/24")},
//			{Name: "cluster", Prefix: netip.MustParsePrefix("198.18.20.0/24")},
//		},
//		Hosts: []netlab.Host{…},
//	})
//	defer lab.Close()
//
//	router, err := netlab.ApplyRules(lab.Host("router"), []netlab.Rule{
//		{Name: "to-ingress", From: services, To: ingress, Protocol: "tcp", Port: 443},
//	})
//	l, err := lab.Host("ingress").Listen("tcp", "198.18.20.200:443")
//	ingress := netlab.ServeIngress(ctx, l, lab.Host("ingress").DialContext, netlab.IngressOptions{})
//	err = ingress.SetRoute("node1.agents.lab.test", "198.18.20.11:9002")
//
// # Where things are
//
//   - [Namespace]: sockets, processes and functions inside one host.
//   - [Build] and [Lab]: the topology; hosts that come and go; what the kernel has ([Lab.Inspect]).
//   - [ApplyRules] and [Router]: what passes between networks, and a counter for each rule and for what is dropped.
//   - [CountConnections]: connections to a host's port, as its kernel sees them.
//   - [ServeDNS] and [ServeIngress].
//   - [ProbeTCP], [ProbeUDP], [ProbeICMP], [ProbeARP] and [Lab.SharedSegment]: proofs of what is reachable and what is not.
//   - [Lab.Partition], [Lab.Impair], [Lab.InsertNAT], [Lab.Bridge] and [Router.OpenAll]: faults, to see the proofs fail.
//   - [Available] and [SelfTest]: whether this machine can do it.
//
// # What a caller must provide
//
// A process whose mount namespace is its own, with a writable folder for the
// namespaces' mount points, such as a tmpfs over /run. When the last process in
// the namespaces ends, the kernel takes everything away, so a crash leaves
// nothing behind.
//
// Labs of more than about a hundred hosts should mark the hosts that most others
// talk to as [Host].Hub: the kernel's neighbour table is small.
//
// IPv4 only: IPv6 is switched off in every namespace, so that no link-local
// address opens a way that no rule describes.
package netlab
