// Package keylime runs the real, unmodified Keylime services: it installs them from the Python Package Index, makes their certificates
// and configuration, says how to start each of them, enrols agents with Keylime's own tenant, and asks the registrar and the
// verifier how the agents fare. It starts nothing by itself and knows no networks: the caller runs the commands wherever it likes.
//
// The usual order is
//
//	inst, err := keylime.EnsureInstalled(ctx, keylime.InstallOptions{})           // seconds once, then a millisecond
//	pki, err := keylime.CreatePKI(dir+"/pki", keylime.PKIOptions{...})            // before anything starts
//	kl, err := keylime.WriteConfig(ctx, keylime.Config{Dir: dir, PKI: pki, Installation: inst, ...})
//	reg := kl.Registrar().Exec(ctx)                                                // an *exec.Cmd: give it output files and start it
//	ver := kl.Verifier().Exec(ctx)
//	en, err := keylime.StartEnroller(ctx, kl, keylime.EnrollerOptions{})           // imports Keylime while the services start
//	err = kl.Registrar().Ready(ctx, nil)                                           // waits until it really answers
//	err = kl.Verifier().Ready(ctx, nil)
//	res, err := en.Enroll(ctx, keylime.Request{UUID: id})                          // what `keylime_tenant -c add` does
//	agent, err := kl.VerifierClient(nil).Agent(ctx, id)
//
// [StartForkServer] starts commands with less work than Exec, where several of them run beside one another on one machine.
//
// Three things about Keylime shape this package:
//
//   - Any certificate signed by the certificate authority that the services trust (in Keylime "cv_ca") is an administrator's. So agents
//     never get one: [AgentServerCertificate] makes a self-signed certificate, which Keylime trusts because the agent registered it.
//   - The main process of a service ignores SIGTERM and waits for its workers, so a service is stopped by a signal to its process
//     group: see [Command.Exec] and [SignalGroup].
//   - The EK certificate is checked by the tenant, at add and update only, and only in the pull model.
package keylime
