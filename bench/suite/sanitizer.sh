# The gpu tests of the CUDA kernels once more, under compute-sanitizer's memory check.
set -u
if ! "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  echo "no CUDA GPU that this torch can use: nothing to check"
  exit 77
fi
if ! command -v compute-sanitizer >/dev/null; then
  echo "no compute-sanitizer on PATH"
  exit 77
fi
# torch's pool would hide a read past the end of a tensor inside a larger block.
PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool memcheck --error-exitcode 9 \
  "$PYTHON" -m pytest -q -m gpu -k native -p no:cacheprovider
status=$?
if [ $status = 5 ]; then
  echo "no test of the CUDA kernels is marked gpu yet"
  exit 77
fi
exit $status
