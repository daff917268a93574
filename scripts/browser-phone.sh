#!/usr/bin/env bash
# Makes the phone that tests/interop/test_browser.py has a browser open: JsSIP, in one file. Nothing is done again that
# has not changed.
set -euo pipefail
cd "$(dirname "$0")/../tests/interop/browser"

made=node_modules/.built/phone.js
if [ -e "$made" ] && [ -z "$(find package.json package-lock.json phone.js -newer "$made")" ]; then
    exit 0
fi
echo "installing JsSIP into tests/interop/browser"
# What packages would run when they are installed is not needed.
npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >/dev/null
npm run --silent build
