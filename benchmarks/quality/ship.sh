#!/usr/bin/env bash
# How models/tools is made, from nothing: reranker, encoder, retriever; tools/figures.sh measures it. A step that is
# repeated continues where it was interrupted. Hours on one core: reranker 1.5 + 0.7, encoder 0.5, retriever 0.1.
# usage: benchmarks/quality/ship.sh BEIR_FOLDERS WORK_FOLDER
#
# The first training of the reranker that ships was made before a step's pool was cut down to the hardest pairs; its
# command, at commit 7cf13a5, was: rabtriever train DATA --out teacher --steps 320 --hard 0.7 --seed 0
# (8 queries x 8 documents a step, learning rate 5e-4; log: tools/teacher_log.jsonl). The second, with a jointly trained
# student: tools/further_log.jsonl.
set -euo pipefail
metatool=$1/metatool clinc150=$1/clinc150 work=$2 tools=$(dirname "$0")/../tools
[ -d "$work/teacher" ] || rabtriever train "$metatool" --out "$work/teacher" --seed 0
[ -d "$work/further" ] || rabtriever train "$metatool" --model "$work/teacher" --out "$work/further" --student-weight 1 \
  --steps 64 --learning-rate 3e-4 --checkpoint-every 16 --seed 0
[ -d "$work/encoder" ] || python "$tools/encoder.py" "$1" "$work" --steps 400
[ -d "$work/tools" ] || rabtriever distill "$metatool" "$clinc150" --teacher "$work/further" --teacher-calls 0 \
  --encoder "$work/encoder" --new-document-gain 0 --label-smoothing 0.3 --examples 0 --out "$work/tools" --seed 0
# Then copy it to models/tools, run tools/figures.sh, and tools/card.py models/tools WORK_FOLDER: its card states those figures.
