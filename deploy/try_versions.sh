#!/bin/sh
# Runs the quick tests with the lowest or the newest versions that pyproject.toml allows, in a new environment:
#   sh deploy/try_versions.sh lowest-direct|highest [FOLDER OF THE ENVIRONMENT]
set -eu
resolution=$1 folder=${2:-$(mktemp -d)}
cd "$(dirname "$0")/.."

python3 -m venv "$folder"
"$folder/bin/python" -m pip install --quiet --disable-pip-version-check uv
# What tests need is taken from constraints.txt: its lowest versions are of no interest.
"$folder/bin/uv" pip install --quiet --python "$folder/bin/python" --resolution "$resolution" \
    --requirement pyproject.toml --extra serve $(grep -E '^(bm25s|hypothesis|pytest)==' constraints.txt)
"$folder/bin/uv" pip install --quiet --python "$folder/bin/python" --no-deps .
"$folder/bin/uv" pip list --python "$folder/bin/python"
"$folder/bin/rabtriever" doctor
"$folder/bin/python" -m pytest -m "not slow" tests/data tests/scoring tests/persistence tests/encoders tests/index \
    tests/llm tests/evaluation tests/rerankers tests/training tests/test_retriever.py tests/cli
