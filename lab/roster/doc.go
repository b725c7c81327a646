// Package roster is who belongs to a lab, in the lab's folder: the specification and the plan with the nodes that the lab has now, and what the TPMs of all
// nodes that it ever had were made from.
package roster
