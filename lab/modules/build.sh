#!/bin/sh
# Builds the lab's own kernel modules (the folders beside this file) for a ready lab kernel.
#
#   lab/modules/build.sh KERNEL OUT [WORK]
#
# KERNEL is the folder with the kernel's config and Module.symvers, OUT gets the .ko files. WORK keeps the kernel's
# headers (~/.cache/soft-kvm-lab). A second run with nothing changed ends at once. The first one takes a minute and
# downloads Debian's kernel source package of the kernel's version, unless lab/build.sh has left it in WORK.
set -eu

[ $# -ge 2 ] || { echo "usage: build.sh KERNEL OUT [WORK]" >&2; exit 64; }
kernel=$(cd "$1" && pwd)
mkdir -p "$2"
out=$(cd "$2" && pwd)
work=${3:-${XDG_CACHE_HOME:-$HOME/.cache}/soft-kvm-lab}
suite=${SOFT_KVM_LAB_SUITE:-sid}
here=$(cd "$(dirname "$0")" && pwd)

say() { echo "lab modules: $*" >&2; }
fail() { say "$*"; exit 1; }

key=$(find "$here" -type f | sort | xargs cat "$kernel/config" "$kernel/Module.symvers" | sha256sum | cut -c1-16)
if [ "$(cat "$out/key" 2>/dev/null)" = "$key" ]; then exit 0; fi

rm -f "$out/key" "$out"/*.ko

version=$(sed -n '1,4s/^# Linux[^ ]* \([0-9.]*\) Kernel Configuration$/\1/p' "$kernel/config")
[ -n "$version" ] || fail "$kernel/config does not tell the kernel's version"
for tool in gcc make flex bison bc xz perl; do
  command -v "$tool" >/dev/null 2>&1 || fail "$tool is missing: run 'cargo xtask setup --for lab'"
done

# Sources are named by two numbers of the version, and tell all of them in their Makefile.
series=$(echo "$version" | cut -d. -f1,2)
is_version() {
  [ "$(sed -n -e 's/^VERSION = //p' -e 's/^PATCHLEVEL = //p' -e 's/^SUBLEVEL = //p' "$1/Makefile" 2>/dev/null |
    paste -sd. -)" = "$version" ]
}
mkdir -p "$work"
work=$(cd "$work" && pwd)
source=
for folder in "$work/src/linux-source-$series" "$work/headers/linux-source-$series"; do
  if is_version "$folder"; then source=$folder; break; fi
done
if [ -z "$source" ]; then
  say "fetching the headers of Linux $version"
  scratch=$(mktemp -d "$work/headers.XXXXXX")
  trap 'rm -rf "$scratch"' EXIT
  # shellcheck disable=SC1091 # a file of its own
  . "$here/../debian.sh"
  debian_sources "$work" "$suite" || fail "no Debian package source on this machine"
  debian_apt "$work" apt-get -qq update || fail "the package lists of Debian $suite cannot be read"
  # An older one only if the mirror still has it.
  found=$(debian_apt "$work" apt-cache madison "linux-source-$series" |
    awk -v version="$version" '{split($3, part, "-")} part[1] == version {print $3; exit}')
  [ -n "$found" ] || fail "Debian $suite has no linux-source-$series of version $version (any more)"
  (cd "$scratch" && debian_apt "$work" apt-get -qq download "linux-source-$series=$found")
  dpkg -x "$scratch"/*.deb "$scratch"
  # What is compiled into the kernel is not needed, only how: an eighth of the whole.
  tar -C "$scratch" -xf "$scratch/usr/src/linux-source-$series.tar.xz" \
    --exclude='*/Documentation/*/*' --exclude='*/drivers/*.[chS]' --exclude='*/sound/*.[ch]' --exclude='*/fs/*.c' \
    --exclude='*/net/*.c' --exclude='*/tools/testing/*' --exclude='*/boot/dts/*'
  source=$work/headers/linux-source-$series
  rm -rf "$source"
  mkdir -p "$work/headers"
  mv "$scratch/linux-source-$series" "$source"
  is_version "$source" || fail "the package is of another version than $version"
  # As lab/build.sh has it.
  sed -i '/^config HZ$/,/default/s/default 100$/default 1000/' "$source/arch/um/Kconfig"
fi

build=$(mktemp -d "$work/modules.XXXXXX")
trap 'rm -rf "$build" "${scratch:-$build}"' EXIT
cp "$kernel/config" "$build/.config"
log=$build/log
make -s -C "$source" ARCH=um O="$build" olddefconfig modules_prepare >"$log" 2>&1 || { tail -n 20 "$log" >&2; fail "the kernel's headers cannot be prepared"; }
cp "$kernel/Module.symvers" "$build/"
for folder in "$here"/*/; do
  name=$(basename "$folder")
  cp -r "$folder" "$build/own-$name"
  make -s -C "$build" ARCH=um M="$build/own-$name" modules >"$log" 2>&1 || { tail -n 20 "$log" >&2; fail "$name does not compile"; }
  cp "$build/own-$name/$name.ko" "$out/"
done
echo "$key" >"$out/key"
say "ready in $out"
