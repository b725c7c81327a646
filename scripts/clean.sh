#!/usr/bin/env bash
# Takes away what make has made.
#
#   scripts/clean.sh LAB           end and delete that lab, what tests left behind, and everything built
#   scripts/clean.sh --look LAB    fail where a lab besides that one needs the cache
#   scripts/clean.sh --cache       delete the cached Keylime installations and container images
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/local/go/bin

usage="usage: scripts/clean.sh LAB | --look LAB | --cache"
cache=${KEYLAB_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/keylab}

docker_answers() { command -v docker >/dev/null && docker version >/dev/null 2>&1; }

# prints the labs that need what is in the cache: Keylime runs from there, and containers have keylab from there
using_cache() {
  local process argv line lab source home xdg own
  for process in /proc/[0-9]*; do
    [[ -O $process ]] || continue
    { mapfile -d '' -t argv <"$process/cmdline"; } 2>/dev/null || continue
    [[ ${argv[1]:-} == __keylab && ${argv[2]:-} == init ]] || continue
    home="" xdg="" own=""
    while IFS= read -rd '' line; do
      case $line in
        HOME=*) home=${line#*=} ;;
        XDG_CACHE_HOME=*) xdg=${line#*=} ;;
        KEYLAB_CACHE_DIR=*) own=${line#*=} ;;
      esac
    done < <(cat "$process/environ" 2>/dev/null)
    if [[ ${own:-${xdg:-$home/.cache}/keylab} == "$cache" ]]; then
      echo "${argv[3]:-?}"
    fi
  done
  docker_answers || return 0
  # shellcheck disable=SC2016 # the dollar is the template's own
  docker ps --all --quiet --filter label=keylab.lab |
    xargs --no-run-if-empty docker inspect --format '{{$lab := index .Config.Labels "keylab.lab"}}{{range .Mounts}}{{$lab}} {{.Source}}{{"\n"}}{{end}}' |
    while read -r lab source; do
      if [[ $source == "$cache/"* ]]; then
        echo "$lab"
      fi
    done
}

look() { # look LAB: fails where another lab needs the cache
  local others
  others=$(using_cache | sort -u | grep -vxF -- "$1" | xargs || true)
  if [[ -n $others ]]; then
    echo "clean: these labs run with what is in $cache: $others. First end them: keylab down LAB" >&2
    exit 1
  fi
}

case ${1:?$usage} in
  --look)
    look "${2:?$usage}"
    exit
    ;;
  --cache)
    look ""
    scripts/dockerd.sh wipe
    # Go's module cache, if a build of images made one there, is read-only.
    chmod -R u+w "$cache/keylime" "$cache/images" "$cache/program" 2>/dev/null || true
    rm -rf "$cache/keylime" "$cache/images" "$cache/program"
    rmdir "$cache" 2>/dev/null || true
    # A Docker that make did not start may be used by others too.
    if docker_answers && [[ -n $(docker image ls --quiet 'keylab.test/*') ]]; then
      echo "Docker still has keylab's images; this removes them: docker image rm --force \$(docker image ls --quiet 'keylab.test/*')" >&2
    fi
    exit
    ;;
  -*)
    echo "$usage" >&2
    exit 2
    ;;
esac

lab=$1
state=${KEYLAB_STATE_DIR:-${XDG_STATE_HOME:-$HOME/.local/state}/keylab}
if [[ -x bin/keylab ]]; then
  bin/keylab wipe "$lab"
elif [[ -e $state/labs/$lab ]]; then
  CGO_ENABLED=0 go run -buildvcs=false ./cmd/keylab wipe "$lab"
fi
# Only folders that are empty now: other labs are the user's own.
rmdir "$state/labs" "$state" 2>/dev/null || true
scripts/sweep.sh || true
rm -rf bin dist build
