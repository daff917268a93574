#!/usr/bin/env bash
# Installs the Debian packages named as arguments; without arguments those of requirements/debian.txt whose program
# is missing. Needs root or sudo without a password; otherwise says what to run, and fails.
set -euo pipefail
cd "$(dirname "$0")/.."

shopt -s nullglob
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
for folder in /usr/lib/postgresql/*/bin; do
    PATH=$PATH:$folder
done

packages=("$@")
if [ $# -eq 0 ]; then
    while read -r package program; do
        [[ $package == \#* || -z $package ]] || command -v "$program" >/dev/null || packages+=("$package")
    done <requirements/debian.txt
fi
[ ${#packages[@]} -gt 0 ] || exit 0

install=(apt-get install -y -q --no-install-recommends "${packages[@]}")
if ! command -v apt-get >/dev/null; then
    echo "missing, and this system has no apt-get: what Debian calls ${packages[*]}" >&2
    exit 1
elif [ "$(id -u)" -eq 0 ]; then
    as_root=(env)
elif sudo -n true 2>/dev/null; then
    as_root=(sudo -n env)
else
    printf 'missing Debian packages: %s\ninstall them with:\n  sudo %s\n' "${packages[*]}" "${install[*]}" >&2
    exit 1
fi
echo "installing Debian packages: ${packages[*]}"

# The tests start servers of their own; those that come with a package are installed and not started. An
# administrator's own policy stays as it is.
policy=/usr/sbin/policy-rc.d
if ! [ -e "$policy" ] && ! [ -L "$policy" ]; then
    trap '"${as_root[@]}" rm -f "$policy"' EXIT
    trap 'exit 130' INT TERM HUP
    printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
    "${as_root[@]}" chmod 755 "$policy"
fi
"${as_root[@]}" DEBIAN_FRONTEND=noninteractive apt-get update -q >/dev/null
"${as_root[@]}" DEBIAN_FRONTEND=noninteractive "${install[@]}" >/dev/null
