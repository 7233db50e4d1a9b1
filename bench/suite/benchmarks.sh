# The benchmarks, results as CSV beside the logs.
set -u
if [ ! -f bench/run.py ]; then
  echo "no bench/run.py in this checkout: there is nothing to measure"
  exit 77
fi
if ! "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  echo "no CUDA GPU that this torch can use: a CPU's numbers are not what this suite is for"
  exit 77
fi
exec "$PYTHON" -m bench.run --out "$OUT"
