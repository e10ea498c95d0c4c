#!/usr/bin/env bash
# How models/tools is made, from nothing: a reranker, then the retriever; figures.sh measures it. A step that is repeated
# continues where it was interrupted.
# usage: benchmarks/tools/run.sh BEIR_FOLDERS WORK_FOLDER
#
# The first training of the reranker that ships was made before a step's pool was cut down to the hardest pairs; its
# command, at commit 7cf13a5, was: rabtriever train DATA --out teacher --steps 320 --hard 0.7 --seed 0
# (8 queries x 8 documents a step, learning rate 5e-4, 47 minutes on two shared cores; log: teacher_log.jsonl). The second,
# with a jointly trained student, took 21 minutes (further_log.jsonl). Tuning the encoder takes a quarter of an hour on two cores, the retriever five minutes.
set -euo pipefail
metatool=$1/metatool clinc150=$1/clinc150 work=$2
[ -d "$work/teacher" ] || rabtriever train "$metatool" --out "$work/teacher" --seed 0
[ -d "$work/further" ] || rabtriever train "$metatool" --model "$work/teacher" --out "$work/further" --student-weight 1 \
  --steps 64 --learning-rate 3e-4 --checkpoint-every 16 --seed 0
[ -d "$work/encoder" ] || python "$(dirname "$0")/encoder.py" "$1" "$work" --steps 400
[ -d "$work/tools" ] || rabtriever distill "$metatool" "$clinc150" --teacher "$work/further" --teacher-calls 0 \
  --encoder "$work/encoder" --new-document-gain 0 --label-smoothing 0.3 --out "$work/tools" --seed 0
# Then copy it to models/tools, run figures.sh, and card.py models/tools WORK_FOLDER: its card states those figures.
