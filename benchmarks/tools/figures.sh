#!/usr/bin/env bash
# The model that ships: the figures of README.md.
# usage: benchmarks/tools/figures.sh BEIR_FOLDERS      (rabtriever and python from the environment)
# Copy new figures to README.md and to "measures" in models/tools/rabtriever.json; its README.md is made from that.
set -euo pipefail
data=$1 here=$(dirname "$0")
results="$here/../results" record="python $here/../record.py"
systems=bm25,encoder,retriever,rerank10
$record "$results/metatool.json" rabtriever evaluate "$data/metatool" --model tools --systems $systems --limit 600 --json
$record "$results/clinc150.json" rabtriever evaluate "$data/clinc150" --model tools --systems $systems --limit 600 --json
$record "$results/demo.json" rabtriever demo --json
