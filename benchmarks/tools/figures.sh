#!/usr/bin/env bash
# The shipped models with the default backend: the figures of README.md and those that docs/results.md has of them.
# usage: benchmarks/tools/figures.sh BEIR_FOLDERS      (rabtriever and python from the environment)
set -euo pipefail
data=$1 here=$(dirname "$0")
results="$here/../results" record="python $here/../record.py"
$record "$results/metatool.json" rabtriever evaluate "$data/metatool" --model models/tools --systems retriever,bm25 --json
$record "$results/metatool_reranker.json" \
  rabtriever evaluate "$data/metatool" --model models/tools --systems retriever,reranker,bm25 --limit 60 --seed 0 --json
$record "$results/demo.json" rabtriever demo --model models/tools --reranker --json
$record "$results/general_demo.json" rabtriever demo --model models/general --json
for task in metatool saycan_next esconv; do
  limit=$([ $task = esconv ] && echo "--limit 200 --seed 0" || true)
  $record "$results/general_$task.json" \
    rabtriever evaluate "$data/$task" --model models/general --systems retriever $limit --json
done
