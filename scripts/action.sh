#!/usr/bin/env bash
# What action.yml does, with its inputs in INPUT_… and GitHub's own variables.
#
#   scripts/action.sh setup   make the machine ready, and keylab, of which the folder goes into $GITHUB_PATH
#   scripts/action.sh run     run scenarios, or bring a lab up, prove it and take it down; the exit status is keylab's
set -euo pipefail
tree=$(cd "$(dirname "$0")/.." && pwd)

fail() { # fail STATUS TEXT: ends with an error that GitHub shows
  echo "::error title=keylab::$2"
  exit "$1"
}

# the given lab is on Kubernetes, as far as a look at its file tells
on_kind() {
  [[ ${INPUT_SUBSTRATE:-} == kind ]] ||
    { [[ -z ${INPUT_SUBSTRATE:-} && -f ${INPUT_SPEC:-} ]] && grep -Eq '^substrate:[[:blank:]]*"?kind' "$INPUT_SPEC"; }
}

# lets normal users make namespaces, and swtpm talk to others than libvirt, where Ubuntu forbids it
unconfine() {
  local as_root=()
  [[ $(id -u) == 0 ]] || as_root=(sudo)
  local restricts=/proc/sys/kernel/apparmor_restrict_unprivileged_userns
  if [[ -r $restricts && $(<"$restricts") == 1 ]]; then
    "${as_root[@]}" sysctl -q -w kernel.apparmor_restrict_unprivileged_userns=0
  fi
  if [[ -e /etc/apparmor.d/usr.bin.swtpm ]] && command -v apparmor_parser >/dev/null; then
    "${as_root[@]}" apparmor_parser -R /etc/apparmor.d/usr.bin.swtpm || true # it may not be loaded
  fi
}

setup() {
  local level=lab bin=${RUNNER_TEMP:?}/keylab-bin
  if on_kind; then
    level=kind
  fi
  "$tree/scripts/setup.sh" "$level"
  unconfine
  mkdir -p "$bin"
  if [[ -n ${INPUT_VERSION:-} ]]; then
    CGO_ENABLED=0 GOBIN=$bin go install "keylab.dev/keylab/cmd/keylab@$INPUT_VERSION" ||
      fail 1 "version \"$INPUT_VERSION\" of keylab cannot be installed"
  else
    (cd "$tree" && CGO_ENABLED=0 go build -buildvcs=false -ldflags '-s -w' -o "$bin/keylab" ./cmd/keylab)
  fi
  echo "$bin" >>"$GITHUB_PATH"
  "$bin/keylab" doctor || fail 1 "this runner cannot run labs: see keylab doctor above"
}

output() { echo "$1=$2" >>"$GITHUB_OUTPUT"; }

# report STATUS: says what came of it, by the reports in $dir that are newer than $begun
report() {
  local at=$dir junit='' verdicts verdict=passed
  # One run has its reports in a folder of its own, several have common ones besides.
  if [[ ! $dir/junit.xml -nt $begun ]]; then
    junit=$(find "$dir" -name junit.xml -newer "$begun" -print -quit)
    [[ -z $junit ]] || at=$(dirname "$junit")
  fi
  junit=''
  if [[ $at/junit.xml -nt $begun ]]; then
    junit=$at/junit.xml
    cat "$at/summary.md" >>"$GITHUB_STEP_SUMMARY"
  else
    {
      echo "## ❌ keylab"
      echo
      # indented, nothing in it is markup
      tail -n 40 "$said" | sed $'s/\x1b\\[[0-9;]*[A-Za-z]//g; s/^/    /'
    } >>"$GITHUB_STEP_SUMMARY"
  fi
  if [[ $1 != 0 ]]; then
    verdict=error
    verdicts=$(find "$dir" -name report.json -newer "$begun" -exec sed -n 's/^  "verdict": "\(.*\)",*$/\1/p; s/^  "passed": false,*$/failed/p' {} +)
    for v in failed error interrupted; do # the worst counts
      ! grep -qx "$v" <<<"$verdicts" || verdict=$v
    done
  fi
  output report "$at"
  output junit "$junit"
  output verdict "$verdict"
  [[ $1 == 0 ]] || echo "::error title=keylab::$verdict: $(tail -n 1 "$said")"
}

# says KEYLAB ARGUMENTS…: runs it and keeps what it says, which is its standard error
says() { { "$@" 2>&1 >&3 | tee -a "$said" >&2; } 3>&1; }

# one lab: up, verify, and always away again
lab() {
  local lab=action-$$ status=0
  # shellcheck disable=SC2064 # its name, now
  trap "keylab wipe $lab" EXIT
  says keylab up "$INPUT_SPEC" --lab "$lab" "${options[@]}" || return
  says keylab verify "$lab" --report "$dir" || status=$?
  if [[ $status != 0 ]]; then
    keylab export --lab "$lab" "$dir/lab"
  fi
  return "$status"
}

run() {
  local options=() names=() more=() status=0
  [[ -z ${INPUT_MODE:-} ]] || options+=(--mode "$INPUT_MODE")
  [[ -z ${INPUT_SUBSTRATE:-} ]] || options+=(--substrate "$INPUT_SUBSTRATE")
  work=$(mktemp -d)
  xargs -r printf '%s\n' <<<"${INPUT_ARGS:-}" >"$work/args" || fail 2 "args has a quote without its end"
  mapfile -t more <"$work/args"
  options+=("${more[@]}")
  read -ra names -d '' <<<"${INPUT_SCENARIO:-}" || true
  if [[ ${#names[@]} -gt 0 && -n ${INPUT_SPEC:-} || ${#names[@]} == 0 && -z ${INPUT_SPEC:-} ]]; then
    fail 2 "give either scenario or spec"
  fi
  mkdir -p "${INPUT_REPORT_DIR:=keylab-report}"
  dir=$(cd "$INPUT_REPORT_DIR" && pwd)
  begun=$work/begun said=$work/said
  touch -d '1 second ago' "$begun" # file systems that keep whole seconds
  : >"$said"
  if [[ -n ${INPUT_SPEC:-} ]]; then
    (lab) || status=$?
  else
    [[ ${names[*]} != all ]] || names=(--all)
    says keylab run "${names[@]}" --report "$dir" "${options[@]}" || status=$?
  fi
  report "$status"
  rm -rf "$work"
  return "$status"
}

case ${1:-} in
  setup | run) "$1" ;;
  *)
    echo "usage: scripts/action.sh setup|run" >&2
    exit 2
    ;;
esac
