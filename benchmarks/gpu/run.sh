#!/usr/bin/env bash
# Work off the queue of quality experiments on a CUDA machine without network, a piece of at most MINUTES (9) a call; the
# same call goes on. What pack.py made travels beside the checkout.   usage: benchmarks/gpu/run.sh PACK WORK [OUT]
#
# PACK   folder of pack.py: parts of the LLM, the data, the wheels; only what is not in WORK yet is read
# WORK   folder that outlives the call: models, caches, results
# OUT    folder for what is to be brought home: result files, and the adapters and predictors made since the last call
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd) pack=$1 work=$2 out=${3:-}
mkdir -p "$work/in" "$work/models" "$work/results"
cp -n "$pack"/* "$work/in/" 2>/dev/null || true
(cd "$work/in" && sha256sum --quiet --ignore-missing -c SHA256SUMS)
if ! (cd "$work/in" && sha256sum --quiet -c SHA256SUMS 2>/dev/null); then
  echo "parts are missing: $(cd "$work/in" && sha256sum -c SHA256SUMS 2>/dev/null | grep FAILED | cut -d: -f1 | xargs)"
  exit 0
fi
if [ ! -d "$work/data" ]; then
  mkdir -p "$work/site" "$work/llm" "$work/data.partial"
  python3 -m pip install -q --no-index --no-deps --no-compile --target "$work/site" "$work"/in/*.whl
  cat "$work"/in/llm.*.part > "$work/llm.tar" && tar -xf "$work/llm.tar" -C "$work/site" && rm "$work/llm.tar"
  cat "$work"/in/data.*.part > "$work/data.tar" && tar -xJf "$work/data.tar" -C "$work/data.partial" && rm "$work/data.tar"
  mv "$work/data.partial" "$work/data"
fi
export PYTHONPATH="$here/../../src:$work/site" RABTRIEVER_CACHE="$work/cache" TOKENIZERS_PARALLELISM=false
[ -f "$work/results/encode.json" ] ||  # the LLM pass: a minute or two
  (cd "$here/../.." && python3 benchmarks/encode/run.py --data "$work/data" --quick --json --out "$work/results/encode.json") ||
  rm -f "$work/results/encode.json"
python3 "$here/../quality/work.py" --data "$work/data" --work "$work/models" --out "$work/results" --size gpu \
  --minutes "${MINUTES:-9}" ${JOBS:+--jobs "$JOBS"}
[ -z "$out" ] && exit 0
mkdir -p "$out" && tar -czf "$out/results.tgz" -C "$work" results
(cd "$work/models" && find . -name '*.json' -not -path '*partial*' | tar -czf "$out/configs.tgz" -T -)  # without them no model loads
for adapter in "$work"/models/teacher-*/adapter/adapter_model.safetensors "$work"/models/students-general/*/predictor.safetensors; do
  [ -f "$adapter" ] || continue
  name=$(echo "${adapter#"$work"/models/}" | tr / _)
  [ -f "$work/brought/$name" ] && continue
  [ "$(find "$out" -type f | wc -l)" -ge 8 ] && break
  mkdir -p "$work/brought" && cp "$adapter" "$out/$name" && touch "$work/brought/$name"
done
ls -l "$out"
