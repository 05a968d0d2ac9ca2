#!/usr/bin/env bash
# try_wheel.sh WHEEL: the wheel as somebody meets it, in a fresh environment and an empty folder, with none of the checkout.
# Every dependency has the version that the tests ran with; PYTHON is the interpreter.
set -euo pipefail
wheel=$(realpath "$1")
constraints=$(realpath "$(dirname "$0")/../constraints.txt")
folder=$(mktemp --directory)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv env
env/bin/pip install --quiet --no-compile --constraint "$constraints" "$wheel"
mkdir empty
cd empty
../env/bin/python -I -c 'from importlib.resources import files; assert (files("prunetune") / "py.typed").is_file()'
../env/bin/prunetune --version
../env/bin/prunetune audit --set epochs=1 --seeds 2 --set rewind=1/5 --store store --out out
ls -s out/report.html out/results.json
