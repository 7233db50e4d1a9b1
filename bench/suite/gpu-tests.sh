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
"$PYTHON" -m pytest -q -m gpu -p no:cacheprovider
status=$?
if [ $status = 5 ]; then
  echo "no test is marked gpu yet"
  exit 77
fi
exit $status
