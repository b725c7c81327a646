#!/usr/bin/env bash
# Runs every fuzz target of the module, one after the other.
#
#   scripts/fuzz.sh [TIME]     how long each, as go test's -fuzztime; default 10s
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/local/go/bin

time=${1:-10s}
status=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT
while IFS=: read -r file target; do
  echo "fuzz: $target in $(dirname "$file") for $time"
  # go test makes each input that finds new code smaller, for up to a minute by default, in which nothing is tried.
  if ! CGO_ENABLED=0 go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" -fuzzminimizetime 200ms "./$(dirname "$file")" 2>&1 | tee "$log"; then
    # go test can take the end of its own time for a failure (https://go.dev/issue/48591); a real one has written its input.
    if grep -q 'context deadline exceeded' "$log" && ! grep -q 'Failing input written' "$log"; then
      echo "fuzz: $target: no failing input; that was the end of the time"
    else
      status=1
    fi
  fi
done < <(find . -name '*_test.go' -printf '%P\n' | sort | xargs sed -n -s -E '/^func Fuzz/{s/^func (Fuzz[A-Za-z0-9_]*).*/\1/;F;p}' | paste -d: - -)
exit "$status"
