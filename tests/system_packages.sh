#!/usr/bin/env bash
# Install what tests need from the system: Chromium, for the web page, and under CI=true Prometheus, which on a machine
# of somebody's own would start as a service. Does nothing unless CI=true or SYSTEM=1 asks for it. Where something cannot
# be installed it says so, and the tests that need it skip themselves with the same words.
set -euo pipefail

[ "${CI:-}" = true ] || [ "${SYSTEM:-}" = 1 ] || exit 0
missing=()
command -v chromium > /dev/null || missing+=(chromium)
[ "${CI:-}" != true ] || command -v prometheus > /dev/null || missing+=(prometheus)
[ "${#missing[@]}" != 0 ] || exit 0

as_root=()
if [ "$(id -u)" != 0 ]; then
  as_root=(sudo -n)
fi
if ! command -v apt-get > /dev/null || ! "${as_root[@]}" true 2> /dev/null; then
  echo "tests/system_packages.sh: ${missing[*]}: missing, and needs apt-get and root; its tests will be skipped" >&2
  exit 0
fi
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT
"${as_root[@]}" apt-get update > "$log" 2>&1 || tail -n 20 "$log" >&2
for package in "${missing[@]}"; do
  echo "tests/system_packages.sh: installing $package" >&2
  if ! "${as_root[@]}" apt-get install -y --no-install-recommends "$package" > "$log" 2>&1; then
    tail -n 20 "$log" >&2
    echo "tests/system_packages.sh: $package could not be installed; its tests will be skipped" >&2
  fi
done
