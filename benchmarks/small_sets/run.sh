#!/usr/bin/env bash
# The same commands on another task, at a size that two cores finish in minutes: it shows that the path works, not how
# good it gets. usage: benchmarks/small_sets/run.sh BEIR_FOLDER WORK_FOLDER   (saycan_next; esconv with STEPS=12)
set -euo pipefail
data=$1 work=$2 here=$(dirname "$0")
name=$(basename "$data")
mkdir -p "$work"
[ -d "$work/teacher" ] || rabtriever train "$data" --out "$work/teacher" --prompt "$here/$name.json" \
  --steps "${STEPS:-30}" --queries 8 --pool 8 --seed 0
[ -d "$work/student" ] || rabtriever distill "$data" --teacher "$work/teacher" --out "$work/student" \
  --queries 400 --teacher-calls 1200 --rounds 6 --steps 1500 --seed 0
python "$here/../record.py" "$here/../results/$name.json" \
  rabtriever evaluate "$data" --model "$work/student" --systems retriever,reranker,bm25 --limit 100 --seed 0 --json
