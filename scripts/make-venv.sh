#!/usr/bin/env bash
# Creates the virtual environment .venv with any Python from 3.11 on. PYTHON=... names one to use.
# Debian keeps the part of Python that does this in a package of its own, which is installed when it may be.
set -euo pipefail
cd "$(dirname "$0")/.."

recent='import sys; sys.exit(sys.version_info < (3, 11))'
whole="import ensurepip, venv; $recent"

if .venv/bin/python -c "import pip; $recent" 2>/dev/null; then
    exit 0
fi

first_python() { # with which this program succeeds
    local python
    for python in ${PYTHON:-python3 python3.13 python3.12 python3.11 /usr/bin/python3}; do
        if "$python" -c "$1" 2>/dev/null; then
            echo "$python"
            return
        fi
    done
    return 1
}

if ! python=$(first_python "$whole"); then
    if ! bare=$(first_python "$recent"); then
        echo "warden needs Python 3.11 or later, and none was found (looked for ${PYTHON:-python3 and python3.11 to 3.13})" >&2
        exit 1
    fi
    scripts/debian-packages.sh "$("$bare" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"
    python=$(first_python "$whole") || {
        echo "$bare still cannot make a virtual environment: its module venv or ensurepip is missing" >&2
        exit 1
    }
fi
"$python" -m venv --clear .venv
