// Package manifests makes the Kubernetes objects of a lab, as typed objects, from what is known of the lab. It is pure: nothing here speaks with a
// cluster. What it makes can be printed, kept, changed and applied by hand.
//
// The agents follow the way of Keylime's own chart: a ConfigMap with the agent's configuration, Secrets for certificates, a DaemonSet. Each pod sees the
// files of its own node only (subPathExpr). For each node there is a Service, which selects the one agent pod on it, and an Ingress, which names the agent's
// contact address: any ingress controller that passes TLS through by SNI can serve them.
package manifests
