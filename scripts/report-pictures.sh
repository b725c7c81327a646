#!/usr/bin/env bash
# Pictures of a report, for the README: the top of the page, light and dark, taken by Chromium without a window.
#
#   scripts/report-pictures.sh REPORT.html [DIR]    writes DIR/report-light.png and DIR/report-dark.png; DIR is docs by default
#
# WIDTH and HEIGHT, in pixels, are what of the page is seen. CHROMIUM names the browser.
set -euo pipefail

[[ $# -eq 1 || $# -eq 2 ]] || { echo "usage: $0 REPORT.html [DIR]" >&2; exit 2; }
report=$1
dir=${2:-$(dirname "$0")/../docs}
width=${WIDTH:-1280} height=${HEIGHT:-1180}

[[ -f $report ]] || { echo "$0: there is no file $report: a run of a scenario writes one" >&2; exit 1; }
[[ -d $dir ]] || { echo "$0: there is no folder $dir" >&2; exit 1; }
browser=${CHROMIUM:-}
for name in chromium chromium-browser google-chrome; do
  [[ -z $browser ]] || break
  browser=$(command -v "$name" || true)
done
[[ -n $browser ]] || { echo "$0: Chromium is missing: apt-get install chromium, or name a browser in CHROMIUM" >&2; exit 1; }

profile=$(mktemp -d)
trap 'rm -rf "$profile"' EXIT
flags=(--headless --disable-gpu --hide-scrollbars --no-first-run "--user-data-dir=$profile" "--window-size=$width,$height")
# As root, in a container, its sandbox does not start. The page is our own, and its policy allows it nothing.
[[ $(id -u) -ne 0 ]] || flags+=(--no-sandbox)

take() { # take NAME SCHEME
  local picture=$profile/$1.png
  if ! timeout 60 "$browser" "${flags[@]}" "--blink-settings=preferredColorScheme=$2" "--screenshot=$picture" "file://$(realpath "$report")" >"$profile/log" 2>&1 ||
    [[ ! -s $picture ]]; then
    echo "$0: $browser took no picture of $report:" >&2
    tail -n 5 "$profile/log" >&2
    exit 1
  fi
  mv "$picture" "$dir/$1.png"
  echo "$dir/$1.png"
}
take report-light 1
take report-dark 0
