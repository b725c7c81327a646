#!/usr/bin/env bash
# Runs `go test` with the arguments given and prints its usual lines: one for each package, and the output of the tests that
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

# Labs wait more than they compute; and one package, e2e, takes as long as all others together.
flags=(-timeout 60m -p "$((1 + $(nproc)))" -parallel "$((2 * $(nproc)))")
if [[ ${CI:-} == true ]]; then
  flags+=(-count=1)
fi

skips=$TMPDIR/skipped
touch "$skips"
show() { # go test -v on stdin
  awk -v skips="$skips" '
    function forget() { split("", text); split("", of); split("", passed); n = 0; test = "" }
    /^=== / { test = $3; next }
    /^ *--- PASS: / { passed[$3] = 1; next }
    /^ *--- SKIP: / { print; print > skips; fflush(); next }
    /^ *--- FAIL: / { test = "" }
    /^(ok|\?)[ \t]|^[ \t]*coverage: 0\.0%/ { print; fflush(); forget(); next }
    /^FAIL[ \t]/ {
      for (i = 1; i <= n; i++) if (!(of[i] in passed)) print text[i]
      print; fflush(); forget(); next
    }
    /^PASS$/ { next }
    { n++; text[n] = $0; of[n] = test }
    END { for (i = 1; i <= n; i++) if (!(of[i] in passed)) print text[i] }'
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
