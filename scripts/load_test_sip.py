#!/usr/bin/env python3
"""The load test under the name that the deployment guide gives it; `warden loadtest` is the same."""

import sys

try:
    from warden.cli.main import main
except ImportError as error:
    sys.exit(
        f"load_test_sip.py: this Python ({sys.executable}) has no Warden ({error}). Run it with Warden's own, which"
        " `make install` sets up: .venv/bin/python scripts/load_test_sip.py"
    )

if __name__ == "__main__":
    sys.exit(main(["loadtest", *sys.argv[1:]]))
