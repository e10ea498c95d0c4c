#!/usr/bin/env bash
# The model that ships with the default backend: the figures of README.md and those that docs/results.md has of it.
# usage: benchmarks/tools/figures.sh BEIR_FOLDERS      (rabtriever and python from the environment)
# Copy new figures to README.md and to "measures" in models/tools/rabtriever.json; its README.md is made from that.
set -euo pipefail
data=$1 here=$(dirname "$0")
results="$here/../results" record="python $here/../record.py"
$record "$results/metatool.json" rabtriever evaluate "$data/metatool" --model tools --systems retriever,bm25 --json
$record "$results/metatool_reranker.json" \
  rabtriever evaluate "$data/metatool" --model tools --systems retriever,reranker,bm25 --limit 60 --seed 0 --json
$record "$results/demo.json" rabtriever demo --reranker --json
