#!/bin/sh
# Boots the device lab's kernel on this machine's own files (read-only), runs a command in it as root and
# exits with the command's status (125: the kernel ended without one).
#
#   lab/run.sh [OPTION…] -- COMMAND [ARG…]
#
#   -m SIZE     memory of the guest (1G)
#   -t SECONDS  killed after that (120)
#   -M MODULES  modules to load first, separated by commas
#   -o DIR      where stdout, stderr, console and status lie afterwards (a temporary folder)
#   -s DIRS     host folders, separated by colons, that the guest must see at the same path (for /tmp, /run)
#   -w DIR      a folder that the guest may write, at the same path (shared between two kernels)
#   -u          start udev in the guest
#   -d          systemd is PID 1, with udev, journald and dbus; the files are writable, and nothing is kept (lab/systemd)
#   -p CPU      processor to stay on (the last one); 'none' for no pinning
#   -k ARGS     more kernel arguments, e.g. a virtual wire: vec0:transport=l2tpv3,udp=1,…
#
# SOFT_KVM_LAB_KERNEL names the folder with `linux` and `modules/`; ~/.cache/soft-kvm-lab/out otherwise.
set -eu

kernel=${SOFT_KVM_LAB_KERNEL:-${XDG_CACHE_HOME:-$HOME/.cache}/soft-kvm-lab/out}
here=$(cd "$(dirname "$0")" && pwd)
memory=1G seconds=120 modules='' out='' share='' writable='' udev='' systemd='' cpu='' extra=''
while getopts m:t:M:o:s:w:udp:k: option; do
  case $option in
    m) memory=$OPTARG ;; t) seconds=$OPTARG ;; M) modules=$OPTARG ;; o) out=$OPTARG ;; s) share=$OPTARG ;;
    w) writable=$OPTARG ;; u) udev=1 ;; d) systemd=1 ;; p) cpu=$OPTARG ;; k) extra=$OPTARG ;; *) exit 64 ;;
  esac
done
shift $((OPTIND - 1))
[ $# -gt 0 ] || { echo "run.sh: no command" >&2; exit 64; }
[ -x "$kernel/linux" ] || { echo "run.sh: no lab kernel in $kernel: run 'cargo xtask lab setup'" >&2; exit 125; }
kernel=$(cd "$kernel" && pwd)

if [ -z "$out" ]; then
  out=$(mktemp -d /var/tmp/soft-kvm-lab.XXXXXX)
  trap 'rm -rf "$out"' EXIT
fi
mkdir -p "$out"; out=$(cd "$out" && pwd)
rm -f "$out/status" "$out/stdout" "$out/stderr"

# The command with its quoting kept, and the variables that programs under test listen to.
quote() { printf "'%s' " "$(printf '%s' "$1" | sed "s/'/'\\\\''/g")"; }
{
  for name in RUST_LOG RUST_BACKTRACE LANG LC_ALL SOFT_KVM_LAB_EVENTS SOFT_KVM_LAB_ROUNDS SOFT_KVM_LAB_SEED; do
    eval "value=\${$name-}"
    [ -z "$value" ] || { printf 'export %s=' "$name"; quote "$value"; echo; }
  done
  printf 'cd '; quote "$PWD"; echo '2>/dev/null || cd /'
  for argument; do quote "$argument"; done
  echo
} >"$out/command"

# Kernel and guest processes share one processor: across two, each system call costs 5 to 40 µs more.
case "$cpu" in
  none) pin='' ;;
  '') pin="taskset -c $(($(nproc --all) - 1))" ;;
  *) pin="taskset -c $cpu" ;;
esac
case "$pin" in ?*) $pin true 2>/dev/null || pin='' ;; esac

# Guest memory is an unlinked file in TMPDIR, which has to be a tmpfs that allows execution.
# SIGKILL, because the kernel's own SIGTERM path can hang.
# shellcheck disable=SC2086 # $pin and $extra are lists of words
TMPDIR=/dev/shm $pin timeout -s KILL "$seconds" "$kernel/linux" mem="$memory" ncpus=1 seccomp=on \
  rootfstype=hostfs rootflags=/ ro init="$here/init" con=null con0=null,fd:1 quiet uml_dir="$out/" \
  lab.out="$out" lab.kernel="$kernel" ${modules:+lab.modules="$modules"} ${share:+lab.share="$share"} \
  ${writable:+lab.writable="$writable"} ${udev:+lab.udev=1} ${systemd:+lab.systemd=1} $extra </dev/null >"$out/console" 2>&1 || ended=$?

cat "$out/stdout" 2>/dev/null || true
cat "$out/stderr" >&2 2>/dev/null || true
if [ -s "$out/status" ]; then exit "$(cat "$out/status")"; fi
echo "run.sh: the kernel ended (${ended:-0}) without a status; the end of its console:" >&2
tail -n 20 "$out/console" >&2
exit 125
