# What a step of a 7B target takes, phase by phase: bench.step, into $OUT/step.json.
set -u
if [ -n "$NO_GPU" ]; then
  "$PYTHON" -m bench.step --tiny --family qwen2_5_vl --slots 40 || exit
  echo "$NO_GPU: a tiny step, no result"
  exit 77
fi
exec "$PYTHON" -m bench.step --family qwen2_5_vl ${QUICK:+--slots 25000} --json "$OUT/step.json"
