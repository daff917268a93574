#!/usr/bin/env bash
# Installs this version of Warden for a host that carries calls: below PREFIX (/opt/PBX), beside the versions that are
# there, with the user that it runs as, its unit and the `warden` command. What runs is not touched: `warden upgrade`
# changes over, or PREFIX/current does at the next restart. DESTDIR=DIR puts everything below DIR, and makes no user.
set -euo pipefail
cd "$(dirname "$0")/.."

prefix=${PREFIX:-/opt/PBX}
root=${DESTDIR:-}
version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' src/warden/__init__.py)
home=$root$prefix/versions/$version
python=${PYTHON:-python3}

say() { echo "install-prod: $*"; }
fail() { echo "install-prod: $*" >&2; exit 1; }

[ -n "$root" ] || [ "$(id -u)" -eq 0 ] || fail "must be run as root (or with DESTDIR=DIR, to look at it first)"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "$python is older than Python 3.11"
"$python" -c 'import ensurepip, venv' 2>/dev/null || fail "$python makes no virtual environments; on Debian: apt-get install python3-venv"
umask 022

# A version is there whole or not at all.
if [ -x "$home/bin/warden" ] && [ -e "$home/complete" ]; then
    say "version $version is there already: $home"
else
    say "version $version goes to $home"
    rm -rf "$home"
    mkdir -p "$home"
    "$python" -m venv "$home"
    export PIP_DISABLE_PIP_VERSION_CHECK=1
    "$home/bin/pip" install --quiet --requirement requirements/base.txt
    "$home/bin/pip" install --quiet --no-deps .
    mkdir -p "$home/share/warden"
    for folder in prometheus grafana; do
        [ ! -d "$folder" ] || cp -R "$folder" "$home/share/warden/"
    done
    "$home/bin/warden" --version >/dev/null
    touch "$home/complete"
fi
if [ ! -e "$root$prefix/current" ]; then
    ln -s "versions/$version" "$root$prefix/current"
    say "$prefix/current is version $version"
elif [ "$(readlink "$root$prefix/current")" != "versions/$version" ]; then
    say "$prefix/current stays $(readlink "$root$prefix/current"): warden upgrade --to $version changes over"
fi

# Files that are there are the operator's, or those of `warden ha render`.
place() { # FILE MODE < text
    if [ ! -e "$root$1" ]; then
        mkdir -p "$(dirname "$root$1")"
        cat >"$root$1"
        chmod "$2" "$root$1"
        say "$1"
    fi
}
place /etc/warden/config.yml 644 <<'CONFIG'
# Settings of this node. Everything else has a default: docs/configuration.md, and config.example.yml for a cluster.
# `warden config check` says what is wrong; after a change: systemctl restart pbx
data_dir: /var/lib/warden
CONFIG
place /etc/warden/environment 600 <<'ENVIRONMENT'
# Variables for config.yml, as NAME=value: passwords, and whatever differs between hosts.
ENVIRONMENT
# In a variable: what cannot be made is not placed, and ends this.
unit=$("$home/bin/warden" ha unit --program "$prefix/current/bin/warden")
place /etc/systemd/system/pbx.service 644 <<<"$unit"
place /usr/local/bin/warden 755 <<WARDEN
#!/bin/sh
# The \`warden\` command with the settings and passwords of this host.
set -a
. /etc/warden/environment
exec $prefix/current/bin/warden --config /etc/warden/config.yml "\$@"
WARDEN

if [ -z "$root" ]; then
    id warden >/dev/null 2>&1 || useradd --system --home-dir /var/lib/warden --shell /usr/sbin/nologin warden
    # Where systemd does not run, as in an image that is being made, there is nothing to reload.
    [ ! -d /run/systemd/system ] || systemctl daemon-reload
    say "edit /etc/warden/config.yml, then: systemctl enable --now pbx"
fi
