package keylime

import "slices"

// agentAPI is the newest version of the agents' API that the services of a Keylime version know (VERSIONS in keylime/api_version.py), for versions
// that do not negotiate.
var agentAPI = map[string]string{
	"7.12.2": "2.3",
	"7.13.1": "2.4",
}

// AgentAPIVersions are the versions of the agents' API, oldest first, to which agents must be limited for a Keylime version; nil where agents may have
// all that they know. Before 7.14 the tenant takes whatever version an agent names as its newest (supported_version in the answer to GET /version), its
// own or not, and hands it on to the verifier. With an agent of today that is 2.6, whose enc_alg "rsa2048" those refuse: they know "rsa" and "ecc". Hence the
// Rust agent's option api_versions.
func AgentAPIVersions(version string) []string {
	newest, ok := agentAPI[version]
	if !ok {
		return nil
	}
	all := []string{"2.1", "2.2", "2.3", "2.4"}
	return all[:slices.Index(all, newest)+1]
}
