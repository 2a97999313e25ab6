#!/bin/sh
# Set up qsmflow and run it on the example data set; the last lines are the reports' paths.
# Usage: scripts/run_example.sh [OUT_DIR] [qsmflow options ...]
set -eu
root=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
venv=${QSMFLOW_VENV:-$root/.venv}
out=${1:-$root/out}
[ $# -eq 0 ] || shift
"$root/scripts/setup.sh"
"$venv/bin/qsmflow" "$root/bids_examples/digital_heads" "$out" participant --work-dir "$root/work" "$@"
