// Package sniproxy is the ingress of a lab on Kubernetes: it brings a TLS connection to the agent whose name its ClientHello gives (SNI, RFC 6066, section 3),
// without looking any further into it. The proxy is HAProxy in TCP mode; [Proxy] drives it, and [Run] drives that from Ingress, Service and EndpointSlice objects.
//
// HAProxy has a fixed number of slots, each a backend with one server, and a map from names to slots. A route is a slot whose server has an address; so
// routes change by HAProxy's own runtime commands, without a reload: connections go on and counters stay.
package sniproxy
