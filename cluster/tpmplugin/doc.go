// Package tpmplugin gives pods a node's TPM: it is a kubelet device plugin (k8s.io/kubelet, device plugin API v1beta1) for the resource keylab.dev/tpm.
// A pod that asks for one gets the folder with the TPM's sockets, and the environment by which tpm2-tools and keylab's own agent find it.
package tpmplugin
