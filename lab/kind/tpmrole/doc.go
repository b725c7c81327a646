// Package tpmrole is the TPM of one node as the main process of a container: a simulated TPM (tpmsim, with swtpm) that serves many clients on unix
// sockets in a folder, which the node's own pods get to see, and a control API on another socket, which only who may enter the container
// reaches. The rest of the package is what connects a pod's programs with those sockets.
package tpmrole
