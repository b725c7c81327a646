#!/usr/bin/env bash
# Runs every fuzz target of the module, one after the other.
#
#   scripts/fuzz.sh [TIME]     how long each, as go test's -fuzztime; default 10s
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/local/go/bin

time=${1:-10s}
status=0
while IFS=: read -r file target; do
  echo "fuzz: $target in $(dirname "$file") for $time"
  CGO_ENABLED=0 go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" "./$(dirname "$file")" || status=1
done < <(find . -name '*_test.go' -printf '%P\n' | sort | xargs sed -n -s -E '/^func Fuzz/{s/^func (Fuzz[A-Za-z0-9_]*).*/\1/;F;p}' | paste -d: - -)
exit "$status"
