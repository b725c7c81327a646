#!/usr/bin/env bash
# Ends the labs that tests of this tree left running, and deletes their temporary folders. Prints what it found; the exit status
# is 1 when a lab was still running.
#
#   scripts/sweep.sh [--quiet]
#   scripts/sweep.sh --key       print the mark of this tree's tests
set -euo pipefail
cd "$(dirname "$0")/.."

key=$(pwd -P | cksum | cut -d' ' -f1)
if [[ ${1:-} == --key ]]; then
  echo "$key"
  exit
fi
if [[ ${1:-} == --quiet ]]; then
  exec >/dev/null
fi

# The first process of a lab takes everything of the lab along when it ends. Its command line is "keylab[LAB] __keylab init LAB ...".
found=0
for process in /proc/[0-9]*; do
  if ! { mapfile -d '' -t argv <"$process/cmdline"; } 2>/dev/null; then
    continue
  fi
  if [[ ${argv[1]:-} != __keylab || ${argv[2]:-} != init ]]; then
    continue
  fi
  if grep -qzx "KEYLAB_TEST_TREE=$key" "$process/environ" 2>/dev/null; then
    echo "lab ${argv[3]:-?} was still running (process ${process#/proc/})"
    kill -KILL "${process#/proc/}" 2>/dev/null || true
    found=1
  fi
done

# A lab on Kubernetes is in Docker, with labels that say where its folder was.
if command -v docker >/dev/null && docker version >/dev/null 2>&1; then
  for lab in $({
    docker ps --all --format '{{.Label "keylab.dir"}} {{.Label "keylab.lab"}}'
    docker network ls --format '{{.Label "keylab.dir"}} {{.Label "keylab.lab"}}'
    docker volume ls --format '{{.Label "keylab.dir"}} {{.Label "keylab.lab"}}'
  } | awk -v mark="/keylab-test-$key-" 'index($1, mark) { print $2 }' | sort -u); do
    echo "lab $lab was still in Docker"
    for label in "keylab.lab=$lab" "io.x-k8s.kind.cluster=keylab-$lab"; do
      docker ps --all --quiet --filter "label=$label" | xargs --no-run-if-empty docker rm --force --volumes >/dev/null
    done
    docker network ls --quiet --filter "label=keylab.lab=$lab" | xargs --no-run-if-empty docker network rm >/dev/null
    docker volume ls --quiet --filter "label=keylab.lab=$lab" | xargs --no-run-if-empty docker volume rm >/dev/null
    found=1
  done
fi

# A module cache made by a test is read-only.
for folder in "${TMPDIR:-/tmp}" /tmp; do
  folder=${folder%/}
  [[ $folder == *"/keylab-test-$key-"* ]] && folder=$(dirname "$folder")
  for old in "$folder/keylab-test-$key-"*; do
    if [[ -O $old ]]; then
      chmod -R u+w "$old" 2>/dev/null || true
      rm -rf "$old"
    fi
  done
done
exit "$found"
