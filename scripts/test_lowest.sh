#!/usr/bin/env bash
# test_lowest.sh [PYTEST OPTION…]: the quick tests with the lowest version that pyproject.toml admits of each dependency.
# torch is the one of constraints.txt, since an older one would come from elsewhere; tests that need an extra skip,
# and warnings are none of ours: an old matplotlib calls what a new pyparsing deprecates.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=.venv/lowest
"${PYTHON:-python3}" -m venv "$folder"
"$folder/bin/pip" install --quiet --no-compile uv
"$folder/bin/uv" pip compile --quiet --no-deps --no-header --no-annotate --resolution lowest pyproject.toml |
    grep -v '^torch==' >"$folder/lowest.txt"
grep '^torch==' constraints.txt >>"$folder/lowest.txt"
"$folder/bin/pip" install --quiet --no-compile --constraint "$folder/lowest.txt" --editable .
"$folder/bin/pip" install --quiet --no-compile pytest pytest-timeout pytest-xdist hypothesis psutil scikit-learn
cat "$folder/lowest.txt"
"$folder/bin/python" -m pytest -n auto --dist worksteal -o filterwarnings=default -m 'not slow and not cluster and not browser' "$@"
