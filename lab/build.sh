#!/bin/sh
# Builds the device lab's kernel: user-mode Linux from Debian's newest kernel source package.
#
#   lab/build.sh [--configure-only] [DIR]      DIR defaults to ~/.cache/soft-kvm-lab
#
# Result: DIR/out/{linux,modules/,config,Module.symvers}; a second run with nothing changed ends at once.
# Needs apt, gcc, make, flex, bison, bc, xz, kmod, perl, python3 and about 4 GB; no root. SOFT_KVM_LAB_JOBS
# sets the number of compilers (all processors otherwise), SOFT_KVM_LAB_SUITE the Debian suite (sid).
set -eu

configure_only=
if [ "${1:-}" = --configure-only ]; then configure_only=1; shift; fi
work=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/soft-kvm-lab}
suite=${SOFT_KVM_LAB_SUITE:-sid}
jobs=${SOFT_KVM_LAB_JOBS:-$(nproc)}
here=$(cd "$(dirname "$0")" && pwd)

say() { echo "lab kernel: $*" >&2; }
fail() { say "$*"; exit 1; }

[ "$(uname -m)" = x86_64 ] || fail "user-mode Linux needs x86_64, this machine is $(uname -m)"
for tool in apt-get dpkg gcc make flex bison bc xz depmod perl python3; do
  command -v "$tool" >/dev/null 2>&1 || [ -x "/sbin/$tool" ] || fail "$tool is missing: run 'cargo xtask setup --for lab'"
done

recipe=$(cat "$0" "$here/debian.sh" "$here/kernel.fragment" | sha256sum | cut -c1-16)
if [ -z "$configure_only" ] && [ "$(cat "$work/out/recipe" 2>/dev/null)" = "$recipe" ]; then
  say "ready in $work/out"
  exit 0
fi

mkdir -p "$work/download" "$work/build" "$work/out"
work=$(cd "$work" && pwd)

# shellcheck disable=SC1091 # a file of its own
. "$here/debian.sh"
# The machine's own Debian mirror, with the suite that carries the newest kernel source.
debian_sources "$work" "$suite" ||
  fail "no Debian package source on this machine; point SOFT_KVM_LAB_KERNEL at a kernel built elsewhere"

source=$(find "$work/src" -maxdepth 1 -name 'linux-source-*' -type d 2>/dev/null | sort -V | tail -n 1)
if [ -z "$source" ]; then
  say "reading the package lists of Debian $suite"
  debian_apt "$work" apt-get -qq update || fail "the package lists of Debian $suite cannot be read"
  package=$(debian_apt "$work" apt-cache search --names-only '^linux-source-[0-9.]+$' | cut -d' ' -f1 | sort -V | tail -n 1)
  [ -n "$package" ] || fail "Debian $suite has no linux-source package"
  say "downloading $package"
  (cd "$work/download" && rm -f ./*.deb && debian_apt "$work" apt-get -qq download "$package")
  say "unpacking"
  rm -rf "$work/unpack"; mkdir -p "$work/unpack" "$work/src"
  dpkg -x "$work"/download/linux-source-*.deb "$work/unpack"
  tar -C "$work/unpack" -xf "$work/unpack/usr/src/$package.tar.xz"
  mv "$work/unpack/$package" "$work/src/$package"
  rm -rf "$work/unpack" "$work"/download/*.deb
  source=$work/src/$package
fi

cd "$source"
# UML's HZ is a constant without a prompt, so the configuration cannot set it: 1000 for millisecond timers.
sed -i '/^config HZ$/,/default/s/default 100$/default 1000/' arch/um/Kconfig
# With PREEMPT the power-off path can be rescheduled onto a task whose host process is gone, and hang.
grep -q preempt_disable arch/um/kernel/reboot.c ||
  sed -i '/^\tdo_uml_exitcalls();/a\	preempt_disable();' arch/um/kernel/reboot.c

say "configuring $(basename "$source")"
make -s ARCH=um O="$work/build" x86_64_defconfig >/dev/null
cd "$work/build"
"$source/scripts/kconfig/merge_config.sh" -m -O . .config "$here/kernel.fragment" >merge.log 2>&1
make -s ARCH=um olddefconfig >/dev/null
grep '^CONFIG_.*=' "$here/kernel.fragment" | while read -r line; do
  grep -qxF -- "$line" .config || say "this kernel does not take $line"
done
if [ -n "$configure_only" ]; then say "configured in $work/build"; exit 0; fi

say "compiling with $jobs jobs (10 to 15 minutes on two processors, once); log in $work/build/make.log"
rm -f "$work/out/recipe"
nice -n 5 make ARCH=um -j"$jobs" >make.log 2>&1 &
make_pid=$!
trap 'kill $make_pid 2>/dev/null' INT TERM
waited=0
while kill -0 $make_pid 2>/dev/null; do
  sleep 1; waited=$((waited + 1))
  [ $((waited % 15)) -ne 0 ] || say "${waited} s: $(grep -c '^  ' make.log) of about 3000 files"
done
wait $make_pid || { tail -n 30 make.log >&2; fail "the build failed"; }

rm -rf "$work/out/modules"
make -s ARCH=um INSTALL_MOD_PATH="$work/out/modules" INSTALL_MOD_STRIP=1 modules_install >/dev/null
strip -s -o "$work/out/linux" linux 2>/dev/null || cp linux "$work/out/linux"
cp .config "$work/out/config"
cp Module.symvers "$work/out/"
echo "$recipe" >"$work/out/recipe"
say "ready in $work/out"
