#!/usr/bin/env bash
# How models/tools is made, from nothing: teacher, then student; figures.sh measures it. A step that is repeated
# continues where it was interrupted.
# usage: benchmarks/tools/run.sh METATOOL_BEIR_FOLDER WORK_FOLDER
#
# The first training of the teacher that ships was made before a step's pool was cut down to the hardest pairs; its
# command, at commit 7cf13a5, was: rabtriever train DATA --out teacher --steps 320 --hard 0.7 --seed 0
# (8 queries x 8 documents a step, learning rate 5e-4, 47 minutes on two shared cores; log: teacher_log.jsonl). The second,
# with a jointly trained student, took 21 minutes (further_log.jsonl).
set -euo pipefail
data=$1 work=$2
[ -d "$work/teacher" ] || rabtriever train "$data" --out "$work/teacher" --seed 0
[ -d "$work/further" ] || rabtriever train "$data" --model "$work/teacher" --out "$work/further" --student-weight 1 \
  --steps 64 --learning-rate 3e-4 --checkpoint-every 16 --seed 0
[ -d "$work/tools" ] || rabtriever distill "$data" --teacher "$work/further" --out "$work/tools" --teacher-calls 16000 --seed 0
