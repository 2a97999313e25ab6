#!/bin/sh
# Make the virtual environment .venv (or $QSMFLOW_VENV) and install qsmflow into it.
# Usage: scripts/setup.sh [EXTRA]      EXTRA is an optional set of dependencies, such as "test".
set -eu
root=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
venv=${QSMFLOW_VENV:-$root/.venv}
python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "qsmflow needs Python 3.11 or newer; set PYTHON=/path/to/python3" >&2
    exit 1
}
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
target=$root${1:+[$1]}
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check -c "$root/constraints.txt" -e "$target"
