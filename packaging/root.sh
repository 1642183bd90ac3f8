#!/bin/sh
# root.sh SUITE ROOT: makes a fresh Debian root for try.sh, from the machine's own mirror. As root. Exit status 2: this
# machine has no mirror of Debian, or does not reach it.
set -eu

suite=$1 root=$2
# shellcheck disable=SC1091 # a file of its own
. "$(dirname "$0")/../lab/debian.sh"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if ! debian_sources "$work" "$suite"; then
  echo "root.sh: no mirror of Debian among this machine's package sources" >&2
  exit 2
fi
mirror=$(sed -nE 's/^URIs: *([^ ]+).*/\1/p; s/^deb( \[[^]]*\])? +([^ ]+) .*/\2/p' "$work"/sources/* | head -n 1)
debootstrap --variant=minbase "$suite" "$root" "$mirror" || {
  tail -n 5 "$root/debootstrap/debootstrap.log" >&2 || true
  exit 2
}
