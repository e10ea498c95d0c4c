#!/usr/bin/env bash
# How models/tools is made, from nothing: teacher, student, figures. Hours on two cores; each step goes on where it was
# when it is repeated. usage: benchmarks/tools/run.sh METATOOL_BEIR_FOLDER WORK_FOLDER
set -euo pipefail
data=$1 work=$2
[ -d "$work/teacher" ] || rabtriever train "$data" --out "$work/teacher" --steps 320 --hard 0.7 --seed 0
[ -d "$work/tools" ] || rabtriever distill "$data" --teacher "$work/teacher" --out "$work/tools" --seed 0
rabtriever evaluate "$data" --model "$work/tools" --systems retriever,bm25 --json >"$work/metatool.json"
rabtriever evaluate "$data" --model "$work/tools" --systems retriever,reranker,bm25 --limit 100 --json \
  >"$work/metatool_100.json"
rabtriever demo --model "$work/tools" --reranker --json >"$work/demo.json"
