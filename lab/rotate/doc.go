// Package rotate brings a running lab from one EK CA to another, by the methods of package lab alone, and writes the runbook: each command that an operator
// would run against a real Keylime, with what came of it here and how long it took.
//
// There are three ways. [Overlap] trusts the new CA beside the old one, takes one node after the other, and distrusts the old one when all are over.
// [AtOnce] changes the trust first, and then all nodes. [Emergency] is for a CA whose key is in the wrong hands: it distrusts that CA first, and has the
// verifier forget every node, for the verifier goes on trusting whom it knows.
//
// A node gets a new certificate only if the CAs' own records vouch for the one that it has: a rotation must not turn a thief's certificate into a good one.
// [Run] begins where an earlier one stopped.
package rotate
