#!/bin/sh
# try.sh ROOT OLD.deb NEW.deb: installs, upgrades, removes, installs again and purges the package in a fresh Debian root
# (`debootstrap --variant=minbase SUITE ROOT`), and checks after each step what has to be there. As root; nothing of the
# machine itself is touched. The root is left with the packages that ours depends on.
set -eu

root=$1
mkdir -p "$root/packages"
cp "$2" "$root/packages/old.deb"
cp "$3" "$root/packages/new.deb"
# Names are resolved as on this machine.
for file in /etc/resolv.conf /etc/hosts; do
  if [ -e "$file" ]; then cp -L "$file" "$root$file"; fi
done
mount -t proc proc "$root/proc"
trap 'umount "$root/proc"' EXIT

inside() {
  chroot "$root" env DEBIAN_FRONTEND=noninteractive LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"
}
fail() {
  echo "try.sh: $*" >&2
  exit 1
}
step() {
  echo "== $*"
}
# there/gone WHAT: paths in the root; links need not lead anywhere.
there() {
  for path; do [ -e "$root$path" ] || [ -L "$root$path" ] || fail "$path is missing"; done
}
gone() {
  for path; do if [ -e "$root$path" ] || [ -L "$root$path" ]; then fail "$path is still there"; fi; done
}
version() {
  inside dpkg-query --show --showformat="\${Version} \${db:Status-Status}\n" soft-kvm
}

enabled=/etc/systemd/system/multi-user.target.wants/soft-kvm.service
key=/var/lib/soft-kvm/identity.pem

step "install"
inside apt-get update -qq
inside apt-get install -qq --yes -o Dpkg::Use-Pty=0 --no-install-recommends /packages/old.deb
version
there /usr/bin/soft-kvm-server /usr/bin/soft-kvm-client "$enabled" /etc/soft-kvm /var/lib/soft-kvm \
  /usr/lib/systemd/system/soft-kvm.service /usr/lib/udev/rules.d/70-soft-kvm.rules
inside soft-kvm-server --version
inside soft-kvm-client --version
inside soft-kvm-server story check /usr/share/doc/soft-kvm/examples/default.jsonnet
inside getent group input video render
inside getent passwd soft-kvm
[ "$(inside stat -c '%a %U' /var/lib/soft-kvm)" = "700 soft-kvm" ] || fail "/var/lib/soft-kvm has another mode"
inside dpkg --verify soft-kvm
echo key >"$root$key"
echo "import 'default.jsonnet'" >"$root/etc/soft-kvm/story.jsonnet"
# A plain binary must not go over the package.
if said=$(inside soft-kvm-server --install-service 2>&1); then fail "--install-service goes over the package"; fi
echo "$said" | grep 'a package has installed the service' || fail "--install-service: $said"

step "upgrade"
inside apt-get install -qq --yes -o Dpkg::Use-Pty=0 --no-install-recommends /packages/new.deb
version
there "$key" "$enabled" /etc/soft-kvm/story.jsonnet

step "disable, install again: stays disabled"
inside systemctl disable soft-kvm.service
inside apt-get install -qq --yes -o Dpkg::Use-Pty=0 --no-install-recommends --reinstall /packages/new.deb
gone "$enabled"

step "remove"
inside systemctl enable soft-kvm.service
inside apt-get remove -qq --yes -o Dpkg::Use-Pty=0 soft-kvm
version
gone /usr/bin/soft-kvm-server /usr/bin/soft-kvm-client /usr/lib/systemd/system/soft-kvm.service
there "$key" /etc/soft-kvm/story.jsonnet

step "install after removal: the same key"
inside apt-get install -qq --yes -o Dpkg::Use-Pty=0 --no-install-recommends /packages/new.deb
there "$key" "$enabled"

step "purge"
rm "$root/etc/soft-kvm/story.jsonnet"
inside apt-get purge -qq --yes -o Dpkg::Use-Pty=0 soft-kvm
gone /var/lib/soft-kvm /etc/soft-kvm "$enabled" /usr/share/doc/soft-kvm /usr/lib/udev/rules.d/70-soft-kvm.rules
if inside dpkg-query --show soft-kvm 2>/dev/null; then fail "dpkg still knows the package"; fi
left=$(find "$root/etc" "$root/usr" "$root/var/lib" -name '*soft-kvm*' -not -path '*/apt/*')
[ -z "$left" ] || fail "left over: $left"
echo "all steps passed"
