package keylime

import "testing"

func TestVersTmp(t *testing.T) {
	for _, v := range Versions() {
		t.Run(v, func(t *testing.T) {
			kl := services(t, func(c *Config) {
				inst, err := EnsureInstalled(t.Context(), InstallOptions{Version: v})
				if err != nil {
					t.Fatal(err)
				}
				c.Installation = inst
			})
			en := enroller(t, kl, EnrollerOptions{})
			ca := newEKCA(t, "TPM Maker")
			ca.trustIn(t, kl.TPMCertStore, "maker.pem")
			a := newAttester(t, kl, ca, testHost)
			res, err := en.Enroll(t.Context(), Request{UUID: a.UUID()})
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%v %v %v", res.OK, res.EKChecked, res.Message)
			waitFor(t, kl.VerifierClient(nil), a.UUID(), "3", func(a *VerifierAgent, err error) bool { return err == nil && a.AttestationCount >= 3 })
		})
	}
}
