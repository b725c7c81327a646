#!/usr/bin/env bash
# A Docker daemon for machines that have none running and no init system to run it: containers, continuous integration.
# Where one answers already, it is used as it is.
#
#   scripts/dockerd.sh start    installs Docker where it is missing (root or sudo), and starts a daemon if none answers
#   scripts/dockerd.sh try      start, where this user may; what cannot be tested without Docker says so itself
#   scripts/dockerd.sh stop     ends the daemon that start started, if any; images stay in the cache
#   scripts/dockerd.sh wipe     ends it and deletes its images, unless a lab has something in it
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/local/go/bin:/usr/sbin:/sbin

cache=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/keylab/dockerd
root=$cache/data
run=/run/keylab-dockerd
pidfile=$run/dockerd.pid
log=$cache/dockerd.log

answers() { docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }

# The daemon that runs is the one that start started with this cache; there is one place for all caches where its number stands.
running() {
  [[ -e $pidfile ]] || return 1
  local argv
  { mapfile -d '' -t argv <"/proc/$(cat "$pidfile")/cmdline"; } 2>/dev/null || return 1
  [[ $(basename "${argv[0]:-}") == dockerd && " ${argv[*]} " == *" $cache/daemon.json "* ]]
}

# labs of which the daemon has something: a TPM's state is there even after keylab down
labs() {
  {
    docker ps --all --format '{{.Label "keylab.lab"}}'
    docker volume ls --format '{{.Label "keylab.lab"}}'
  } | sort -u | xargs
}

start() {
  if ! command -v dockerd >/dev/null && ! answers; then
    scripts/setup.sh kind
  fi
  if answers; then
    return
  fi
  if [[ $(id -u) != 0 ]]; then
    echo "dockerd: no Docker daemon answers, and only root can start one. Start Docker, or add yourself to its group." >&2
    exit 1
  fi
  # Every node of a cluster runs an init system, kubelet and containerd, which watch files.
  local instances=/proc/sys/fs/inotify/max_user_instances
  if [[ -w $instances && $(cat "$instances") -lt 8192 ]]; then
    echo 8192 >"$instances"
  fi
  mkdir -p "$cache" "$root" "$run"
  # Of a daemon that was killed: by now the numbers may be those of other processes.
  rm -f "$pidfile" "$run/exec/containerd/containerd.pid"
  CGO_ENABLED=0 go build -o "$cache/runc-caps" ./internal/tools/runc-caps
  # Its own bridge is off and all its networks are in the range set apart for labs (RFC 2544).
  cat >"$cache/daemon.json" <<EOF
{
  "data-root": "$root",
  "exec-root": "$run/exec",
  "pidfile": "$pidfile",
  "bridge": "none",
  "default-address-pools": [{"base": "198.18.128.0/17", "size": 24}],
  "default-runtime": "runc-caps",
  "runtimes": {"runc-caps": {"path": "$cache/runc-caps", "runtimeArgs": ["$(command -v runc)"]}},
  "log-driver": "json-file",
  "log-opts": {"max-size": "10m"}
}
EOF
  setsid dockerd --config-file "$cache/daemon.json" >>"$log" 2>&1 </dev/null &
  local pid=$!
  local deadline=$((SECONDS + 60))
  until answers; do
    if ! kill -0 "$pid" 2>/dev/null || ((SECONDS > deadline)); then
      echo "dockerd: the daemon did not start; the end of its log $log:" >&2
      tail -n 20 "$log" >&2
      exit 1
    fi
    read -rt 0.2 <> <(:) || :
  done
}

stop() {
  running || return 0
  local pid
  pid=$(cat "$pidfile")
  kill "$pid" 2>/dev/null || return 0
  tail --pid="$pid" -s 0.2 -f /dev/null
}

case ${1:-} in
  start) start ;;
  try) (start) || echo "dockerd: no Docker: the tests of the substrate kind will not run." >&2 ;;
  stop) stop ;;
  wipe)
    if running && answers && left=$(labs) && [[ -n $left ]]; then
      echo "dockerd: the daemon has labs, whose TPMs would be lost: $left. First end and delete them: keylab wipe LAB" >&2
      exit 1
    fi
    stop
    rm -rf "$cache"
    ;;
  *)
    echo "usage: scripts/dockerd.sh start|try|stop|wipe" >&2
    exit 2
    ;;
esac
