package keylime

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"path"
	"slices"
	"strings"
)

//go:embed requirements/*.txt
var requirementFiles embed.FS

// DefaultVersion is the Keylime version that is installed when none is named.
const DefaultVersion = "7.14.3"

// Versions lists the Keylime versions that can be installed: those whose requirements are pinned in this program.
func Versions() []string {
	entries, err := requirementFiles.ReadDir("requirements")
	if err != nil {
		return nil // cannot happen: the folder is embedded
	}
	var versions []string
	for _, e := range entries {
		versions = append(versions, strings.TrimSuffix(e.Name(), ".txt"))
	}
	slices.Sort(versions)
	return versions
}

// requirements are the pinned packages of one Keylime version.
type requirements struct {
	text   string // the whole file
	digest string // hex SHA-256 of text
	sdist  string // only the line that pins Keylime itself, with its hashes
}

func readRequirements(version string) (*requirements, error) {
	text, err := requirementsText(version)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256([]byte(text))
	r := &requirements{text: text, digest: hex.EncodeToString(sum[:])}
	if r.sdist, err = pinOf(r.text, "keylime"); err != nil {
		return nil, fmt.Errorf("requirements of Keylime %s: %w", version, err)
	}
	return r, nil
}

// requirementsText is the file of a version. One with a line "-r OTHER.txt" has OTHER's pins, with its own in place of those of the same packages;
// what pip is given is always a whole file, since pip refuses two pins of one package.
func requirementsText(version string) (string, error) {
	data, err := requirementFiles.ReadFile(path.Join("requirements", version+".txt"))
	if err != nil {
		return "", fmt.Errorf("keylime version %q cannot be installed: this program knows %s", version, strings.Join(Versions(), ", "))
	}
	_, own, based := strings.Cut(string(data), "\n-r ")
	if !based {
		return string(data), nil
	}
	base, own, _ := strings.Cut(own, ".txt\n")
	text, err := requirementsText(base)
	if err != nil {
		return "", fmt.Errorf("requirements of Keylime %s are based on those of %s: %w", version, base, err)
	}
	for line := range strings.Lines(own) {
		name, _, ok := strings.Cut(line, "==")
		if !ok {
			continue // a hash
		}
		pin, err := pinOf(own, name)
		if err != nil {
			return "", fmt.Errorf("requirements of Keylime %s: %w", version, err)
		}
		replaced, err := pinOf(text, name)
		if err != nil {
			return "", fmt.Errorf("requirements of Keylime %s, on which those of %s are based: %w", base, version, err)
		}
		text = strings.Replace(text, replaced, pin, 1)
	}
	return text, nil
}

// pinOf cuts the pin of one package, continuation lines included, out of a requirements file.
func pinOf(text, name string) (string, error) {
	var out strings.Builder
	inside := false
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, name+"==") {
			inside = true
		}
		if !inside {
			continue
		}
		out.WriteString(line)
		if !strings.HasSuffix(strings.TrimRight(line, "\n"), `\`) {
			return out.String(), nil
		}
	}
	return "", fmt.Errorf("no complete pin of package %q", name)
}

// Requirements is the text of the pip requirements file of one Keylime version, with hashes, e.g. to build a container image from.
// Module gpg is not in it: it comes from the system.
func Requirements(version string) (string, error) {
	r, err := readRequirements(version)
	if err != nil {
		return "", err
	}
	return r.text, nil
}
