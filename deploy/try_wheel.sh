#!/bin/sh
# Installs a wheel in a new environment, as `pip install` does, and runs what a user runs first, with an empty home:
#   sh deploy/try_wheel.sh WHEEL [OPTION OF PIP ...]
set -eu
wheel=$(realpath "$1")
shift
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@" "$wheel"
mkdir "$folder/home" "$folder/work"
cd "$folder/work"
run() {
    env -i HOME="$folder/home" PATH="$folder/venv/bin:/usr/bin:/bin" HF_HUB_OFFLINE=1 "$@"
}
run rabtriever doctor
run rabtriever demo
