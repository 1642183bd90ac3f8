#!/bin/sh
# Builds the lab's virtual VA driver:  lab/va-virtual/build.sh OUT
# OUT gets softkvm_virtual_drv_video.so; libva loads it where LIBVA_DRIVERS_PATH=OUT and
# LIBVA_DRIVER_NAME=softkvm_virtual. A second run with nothing changed ends at once.
set -eu

[ $# -eq 1 ] || { echo "usage: build.sh OUT" >&2; exit 64; }
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
out=$(cd "$1" && pwd)
library=$out/softkvm_virtual_drv_video.so

key=$(find "$here" -type f | sort | xargs cat | sha256sum | cut -c1-16)
if [ -f "$library" ] && [ "$(cat "$out/key" 2>/dev/null)" = "$key" ]; then exit 0; fi
if ! echo '#include <va/va_backend.h>' | gcc -E - >/dev/null 2>&1; then
  echo "lab va-virtual: gcc or libva's headers are missing: run 'cargo xtask setup --for lab'" >&2
  exit 1
fi
rm -f "$out/key"
gcc -std=gnu11 -O2 -fPIC -shared -fvisibility=hidden -Wall -Wextra -Werror -Wno-deprecated-declarations \
  -o "$library" "$here"/*.c -lpthread
echo "$key" >"$out/key"
echo "lab va-virtual: ready in $out" >&2
