#!/usr/bin/env bash
# Runs `go test` with the arguments given and prints its usual lines: one for each package, and the whole output of one that
# failed. On CI (CI=true) a skipped test is a failure. What the tests leave behind is swept away, and is a failure too.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/local/go/bin

key=$(scripts/sweep.sh --key)
TMPDIR=$(mktemp -d -t "keylab-test-$key-XXXXXX")
export TMPDIR
export KEYLAB_TEST_TREE=$key # by which sweep.sh knows the labs of these tests
export KEYLAB_TEST_PYTHON=${KEYLAB_TEST_PYTHON:-/usr/bin/python3}
export CGO_ENABLED=1 # for the tests of the TPM simulator
trap 'scripts/sweep.sh --quiet || true' EXIT

# Labs wait more than they compute.
flags=(-timeout 60m -parallel "$((2 * $(nproc)))")
if [[ ${CI:-} == true ]]; then
  flags+=(-count=1)
fi

skips=$TMPDIR/skipped
touch "$skips"
show() {
  local line buffer=()
  while IFS= read -r line; do
    case $line in
      ok[[:blank:]]* | '?'[[:blank:]]* | [[:blank:]]*'coverage: 0.0%'*)
        printf '%s\n' "$line"
        buffer=()
        ;;
      FAIL[[:blank:]]*)
        [[ ${#buffer[@]} == 0 ]] || printf '%s\n' "${buffer[@]}"
        printf '%s\n' "$line"
        buffer=()
        ;;
      '=== '* | 'PASS' | *'--- PASS: '*) ;;
      *'--- SKIP: '*)
        printf '%s\n' "$line" | tee -a "$skips"
        ;;
      *) buffer+=("$line") ;;
    esac
  done
  [[ ${#buffer[@]} == 0 ]] || printf '%s\n' "${buffer[@]}"
}

go test -v "${flags[@]}" "$@" 2>&1 | show

skipped=$(cat "$skips") # before the sweep, which deletes the folder that it is in
if ! left=$(scripts/sweep.sh); then
  printf '%s\n' "$left" "FAIL: the tests left this behind" >&2
  exit 1
fi
if [[ -n $skipped && ${CI:-} == true ]]; then
  echo "FAIL: the tests above were skipped; on CI nothing may be" >&2
  exit 1
fi
