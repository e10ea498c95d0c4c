#!/usr/bin/env bash
# wrk beside our own client: one connection, then sixteen, each query once.
# Usage: benchmarks/serve/wrk.sh INDEX BEIR_FOLDER [MODEL]     needs wrk (Debian: apt-get install wrk)
set -euo pipefail
index=$1 queries=$2/queries.jsonl model=${3:-models/tools} here=$(cd "$(dirname "$0")" && pwd)
rabtriever serve "$index" --model "$model" --port 8099 2> /dev/null &
trap 'kill %1' EXIT
until curl -sf localhost:8099/ready > /dev/null; do sleep 0.5; done
start=0
for connections in 4 1 16 1 16; do
    echo "wrk -t1 -c$connections -d10s --latency"
    QUERIES=$queries START=$start wrk -t1 "-c$connections" -d10s --latency -s "$here/search.lua" http://localhost:8099 |
        grep -E '50%|99%|Requests/sec|Non-2xx|Socket errors' || true
    start=$((start + 2000))
done
