#!/usr/bin/env bash
# Rules of this repository that no other tool checks. CONTRIBUTING.md says why they are there.
set -euo pipefail
cd "$(dirname "$0")/.."

bad=0
complain() { # complain RULE LINES: prints the lines, if there are any
  [[ -z $2 ]] && return
  printf 'house rule: %s\n%s\n\n' "$1" "$2" >&2
  bad=1
}
files() { find . -type f -not -path './.git' -not -path './.git/*' -not -path './bin/*' -not -path './dist/*' -not -path './build/*' -not -path './reports/*' "$@"; }
go_files() { files -name '*.go' "$@"; }

complain "a source file has at most 500 lines" \
  "$(files \( -name '*.go' -o -name '*.py' -o -name '*.sh' \) -print0 | xargs -0 wc -l | awk '$2 != "total" && $1 > 500')"

complain "a package is named for what it is, not util, common or helpers" \
  "$(go_files -print0 | xargs -0 grep -nE '^package (util|utils|common|helper|helpers)$' || true)"

complain "wait for a condition with a deadline, not time.Sleep" \
  "$(go_files -not -name '*_test.go' -print0 | xargs -0 grep -n 'time\.Sleep(' || true)"

complain "only main ends the process; a library returns an error" \
  "$(go_files -not -name '*_test.go' -not -path './cmd/*' -not -path '*/internal/*' -print0 |
    xargs -0 grep -nE '^[^/]*(\bpanic\(|\blog\.Fatal|\bos\.Exit\()' | grep -vF './tpmsim/simulator.go:' || true)"

# lab/spec/validate.go names the ranges to refuse them, and the tests of the specification see that it does.
complain "labs and examples use 198.18.0.0/15 alone" \
  "$(files -not -path './lab/spec/*' -not -path './scripts/houserules.sh' -not -name 'go.sum' -print0 |
    xargs -0 grep -InE '(^|[^0-9.v])(10\.[0-9]{1,3}|192\.168|172\.(1[6-9]|2[0-9]|3[01]))\.[0-9]{1,3}\.[0-9]{1,3}\b' || true)"

complain "no paths of one machine" \
  "$(files -not -path './scripts/houserules.sh' -print0 | xargs -0 grep -InE '(^|[^A-Za-z0-9_.}-])/(home|root|Users|work)/[A-Za-z0-9]' || true)"

complain "scripts are executable" "$(find scripts .ci -type f -not -perm -u+x)"

exit "$bad"
