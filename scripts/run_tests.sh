#!/bin/sh
# Set up qsmflow with what the tests need and run them; arguments go to pytest.
# Usage: scripts/run_tests.sh [pytest options ...]      (-m slow runs what is left out otherwise)
# Files of tests run side by side; -n 0 runs them one after the other, as a debugger needs it.
set -eu
root=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
venv=${QSMFLOW_VENV:-$root/.venv}
"$root/scripts/setup.sh" test
cd "$root"
[ $# -gt 0 ] || set -- -m "not slow"
exec "$venv/bin/python" -m pytest -n auto --maxprocesses 4 --dist loadfile "$@"
