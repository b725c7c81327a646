#!/usr/bin/env bash
# Takes away what make has made.
#
#   scripts/clean.sh LAB       end and delete that lab, what tests left behind, and everything built
#   scripts/clean.sh --cache   delete the cached Keylime installations and container images
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/local/go/bin

if [[ ${1:-} == --cache ]]; then
  cache=${KEYLAB_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/keylab}
  scripts/dockerd.sh wipe
  rm -rf "$cache/keylime" "$cache/images" "$cache/program"
  rmdir "$cache" 2>/dev/null || true
  exit
fi

lab=${1:?usage: scripts/clean.sh LAB}
state=${KEYLAB_STATE_DIR:-${XDG_STATE_HOME:-$HOME/.local/state}/keylab}
if [[ -x bin/keylab ]]; then
  bin/keylab wipe "$lab"
elif [[ -e $state/labs/$lab ]]; then
  CGO_ENABLED=0 go run -buildvcs=false ./cmd/keylab wipe "$lab"
fi
# Only folders that are empty now: other labs are the user's own.
rmdir "$state/labs" "$state" 2>/dev/null || true
scripts/sweep.sh || true
rm -rf bin dist
