# The tests marked gpu.
set -u
if ! "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  echo "no CUDA GPU that this torch can use: the tests marked gpu did not run"
  exit 77
fi
if ! "$PYTHON" -c 'import pytest, hypothesis'; then
  echo "no pytest or no hypothesis: the tests marked gpu did not run"
  exit 77
fi
# Most of the time goes into Triton's compiler, a core a process.
together=()
if "$PYTHON" -c 'import xdist' 2>/dev/null; then
  cores=$(nproc)
  together=(-n "$((cores < 8 ? cores : 8))")
fi
PYTHONHASHSEED=0 "$PYTHON" -m pytest -q -m gpu -p no:cacheprovider --durations=10 "${together[@]}"
status=$?
if [ $status = 5 ]; then
  echo "no test is marked gpu yet"
  exit 77
fi
exit $status
