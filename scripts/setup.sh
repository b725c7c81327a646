#!/usr/bin/env bash
# Checks that this machine has what a job needs, and installs what is missing with apt-get: as root, or by sudo. It says
# so beforehand. Where it may not, it says what to install and fails.
#
#   scripts/setup.sh go      to build
#   scripts/setup.sh lab     to build and run labs
#   scripts/setup.sh kind    to run labs on Kubernetes in Docker too, and to build their images
#   scripts/setup.sh test    to lint and test too
#   scripts/setup.sh bench   to compare with Debian's own TPM tools too
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/local/go/bin:/usr/sbin:/sbin

# keylab runs Keylime with the system's Python, whatever python3 the shell finds first.
python=/usr/bin/python3

missing=()
need() { # need PACKAGE CHECK...: the Debian (and Ubuntu) package, and a command that succeeds when it is there
  local package=$1
  shift
  "$@" >/dev/null 2>&1 || missing+=("$package")
}
has() { command -v "$1"; }
has_module() { "$python" -c 'import importlib.util as u, sys; sys.exit(any(u.find_spec(m) is None for m in sys.argv[1:]))' "$@"; }
has_file() { compgen -G "$1"; }
has_header() { echo "#include <$1>" | gcc -E -; }

has_library() { ldconfig -p | grep -F "$1"; }
# The command, and a daemon: one that can be started, or one that answers already.
docker_there() { has docker && { has dockerd || docker version; }; }

look() {
  missing=()
  [[ $level == go ]] && return
  need ca-certificates test -e /etc/ssl/certs/ca-certificates.crt
  need git has git
  need libfaketime has_file '/usr/lib/*/faketime/libfaketimeMT.so.1' # for a service's wrong clock
  need iproute2 has ip
  need libefivar1 has_library libefivar.so.1 # for Keylime's verifier, where nodes measure their boot
  need make has make
  need nftables has nft
  need python3 test -x "$python"
  need python3-gpg has_module gpg
  need python3-venv has_module venv ensurepip
  need swtpm has swtpm
  need tpm2-tools has tpm2_pcrread
  need util-linux has nsenter
  [[ $level == lab ]] && return
  need docker.io docker_there
  need mmdebstrap has mmdebstrap
  [[ $level == kind ]] && return
  need docker-registry has docker-registry
  need haproxy has haproxy
  need libtss2-tcti-cmd0 has_library libtss2-tcti-cmd.so.0
  need gcc has gcc
  need libc6-dev has_header stdlib.h
  need libssl-dev has_header openssl/evp.h
  need openssl has openssl
  need python3-cryptography has_module cryptography
  need shellcheck has shellcheck
  [[ $level == test ]] && return
  need swtpm-tools has swtpm_setup
}

# runs a command as root, or fails when this user may not
as_root() {
  if [[ $(id -u) == 0 ]]; then
    "$@"
  else
    sudo "$@"
  fi
}
may_be_root() {
  [[ $(id -u) == 0 ]] && return
  command -v sudo >/dev/null || return
  # A password can be asked for only where somebody can type it.
  [[ -t 0 && -t 2 ]] || sudo -n true 2>/dev/null
}

install() {
  local line="apt-get install ${missing[*]}"
  if ! command -v apt-get >/dev/null; then
    echo "setup: this machine lacks what these Debian packages bring: ${missing[*]}" >&2
    echo "setup: it has no apt-get; install their like by its own package manager." >&2
    exit 1
  fi
  if ! may_be_root; then
    echo "setup: packages are missing, and you are neither root nor allowed to use sudo. An administrator can run:" >&2
    echo "  $line" >&2
    exit 1
  fi
  echo "setup: installing as root: $line" >&2
  local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -q -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300)
  local log
  log=$(mktemp)
  if ! { as_root "${apt[@]}" update && as_root "${apt[@]}" install --yes --no-install-recommends "${missing[@]}"; } >"$log" 2>&1 </dev/null; then
    cat "$log" >&2
    rm -f "$log"
    echo "setup: apt-get failed; its output is above." >&2
    exit 1
  fi
  rm -f "$log"
}

check_go() {
  local want
  want=$(awk '$1 == "go" { print $2 }' go.mod)
  if ! command -v go >/dev/null; then
    echo "setup: Go is missing; keylab needs Go $want or newer. Get it from https://go.dev/dl/ and unpack it to /usr/local:" >&2
    echo "  rm -rf /usr/local/go && tar -C /usr/local -xzf go$want.linux-$(uname -m | sed 's/x86_64/amd64/; s/aarch64/arm64/').tar.gz" >&2
    exit 1
  fi
  # An older Go (1.21 on) fetches the one that go.mod names by itself, unless GOTOOLCHAIN=local forbids it.
  local output
  if ! output=$(go env GOVERSION 2>&1); then
    echo "setup: this Go is too old: keylab needs Go $want or newer, from https://go.dev/dl/. It says: $output" >&2
    exit 1
  fi
}

check_python() {
  if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "setup: $python is older than 3.11, which Keylime's pinned packages need: use Debian 12, Ubuntu 24.04, or newer." >&2
    exit 1
  fi
}

level=${1:-test}
case $level in
  go | lab | kind | test | bench) ;;
  *)
    echo "usage: scripts/setup.sh go|lab|kind|test|bench" >&2
    exit 2
    ;;
esac
look
if [[ ${#missing[@]} -gt 0 ]]; then
  install
  look
  if [[ ${#missing[@]} -gt 0 ]]; then
    echo "setup: still missing after the installation: ${missing[*]}" >&2
    exit 1
  fi
fi
check_go
if [[ $level != go ]]; then
  check_python
fi
