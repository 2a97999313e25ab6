#!/bin/sh
# Build the documentation site; the last line is the path of its first page. Whatever is wrong with a page,
# a link or an equation ends it with an error.
# Usage: scripts/build_docs.sh [SITE_DIR]
set -eu
root=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
venv=${QSMFLOW_VENV:-$root/.venv}
site=${1:-$root/docs/_build}
"$root/scripts/setup.sh" docs
"$venv/bin/python" -m sphinx --fail-on-warning --keep-going --fresh-env --quiet "$root/docs" "$site"
echo "$site/index.html"
