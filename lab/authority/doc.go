// Package authority is the EK CAs of one lab: the one it was made with, those that were made while it ran, and one that nobody trusts. It knows where
// they are on disk, which of them is active (issues for new TPMs), which the lab's tpm_cert_store holds, and which were retired.
//
// All of it is in the lab's folder, so that it outlives the running lab, and so that several processes may change it, one after the other:
//
//	ekca/               the first CA, called ca-1
//	ekcas/<name>/       the others
//	ekcas/record.json   which is active, trusted, retired, leaked; where it is absent, ca-1 is active and trusted, and there is no other
//	ekcas/leaked/       certificates that thieves of a CA's key made, and that no CA's record holds
//	stranger/           the CA that nobody trusts, called stranger
package authority
