#!/usr/bin/env bash
# Writes requirements/base.in from pyproject.toml and compiles the pins. Pins that still fit stay as they are;
# `scripts/make-pins.sh --upgrade` takes the newest. The files name packages and versions, and no place to get them.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=$PWD/.venv/bin

"$bin/python" - >requirements/base.in <<'PYTHON'
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
print("# The same list as in pyproject.toml, from which `make pins` writes it.")
print("\n".join(project["dependencies"]))
PYTHON

[ -x "$bin/uv" ] || "$bin/pip" install -q uv
cd requirements
for name in base test; do
    "$bin/uv" pip compile -q --no-header --no-annotate --python-version 3.11 "$@" "$name.in" -o "$name.txt"
done
