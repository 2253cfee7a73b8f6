#!/usr/bin/env bash
# Makes the virtual environment in .venv unless it is there and works. Debian ships venv apart from python3: as root it is installed.
set -euo pipefail
python=${1:-python3}

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "Python 3.11 or newer is needed; try: make PYTHON=python3.12" >&2
    exit 1
}
.venv/bin/python -m pip --version >/dev/null 2>&1 && exit 0

if ! "$python" -c 'import ensurepip' >/dev/null 2>&1; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-venv >/dev/null
    else
        echo "Python's venv module is missing; on Debian and Ubuntu: sudo apt-get install python3-venv" >&2
        exit 1
    fi
fi
"$python" -m venv --clear .venv
