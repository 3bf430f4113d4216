#!/usr/bin/env bash
# Install what tests need from the system: Chromium, for the web page. Does nothing unless CI=true or SYSTEM=1 asks
# for it. Where it cannot be installed it says so, and the page's tests skip themselves with the same words.
set -euo pipefail

[ "${CI:-}" = true ] || [ "${SYSTEM:-}" = 1 ] || exit 0
if command -v chromium > /dev/null; then
  exit 0
fi

as_root=()
if [ "$(id -u)" != 0 ]; then
  as_root=(sudo -n)
fi
if ! command -v apt-get > /dev/null || ! "${as_root[@]}" true 2> /dev/null; then
  echo "tests/system_packages.sh: Chromium is missing and needs apt-get and root; the page's tests will be skipped" >&2
  exit 0
fi
echo "tests/system_packages.sh: installing Chromium" >&2
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! { "${as_root[@]}" apt-get update && "${as_root[@]}" apt-get install -y --no-install-recommends chromium; } > "$log" 2>&1; then
  tail -n 20 "$log" >&2
  echo "tests/system_packages.sh: Chromium could not be installed; the page's tests will be skipped" >&2
fi
