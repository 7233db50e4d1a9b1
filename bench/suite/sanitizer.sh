# The gpu tests of the CUDA kernels once more under compute-sanitizer: memory, uninitialised reads,
# races in shared memory. Each tool has its own limit; all of them end within five minutes.
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
export PYTORCH_NO_CUDA_MEMORY_CACHING=1
if ! compute-sanitizer --tool memcheck --error-exitcode 9 \
  "$PYTHON" -c 'import torch; torch.zeros(1, device="cuda")' >/dev/null 2>&1; then
  echo "compute-sanitizer cannot watch a program on this machine"
  exit 77
fi
failed=0
summary=""

# check TOOL SECONDS TESTS...: a tool over some tests. A capture cannot allocate without the pool.
check() {
  local tool=$1 seconds=$2 word
  shift 2
  echo "== $tool"
  timeout --kill-after=5 "$seconds" compute-sanitizer --tool "$tool" --error-exitcode 9 \
    "$PYTHON" -m pytest -q -m gpu -p no:cacheprovider --hypothesis-seed=0 "$@"
  case $? in
    0) word=passed ;;
    5) word="no tests" ;;
    124 | 137) word="cut at $seconds s" failed=1 ;;
    *) word=FAILED failed=1 ;;
  esac
  summary+="$tool $word; "
}

no_graphs="not captured and not graph and not ten_thousand and not large"
check memcheck 150 -k "$no_graphs and not every_number" python_tests/test_native_*.py
check racecheck 70 -k "$no_graphs and (chain or star or step or refus or aligned or strided)" \
  python_tests/test_native_walk.py python_tests/test_native_tree.py python_tests/test_native_gpu.py
# Only what no torch kernel takes part in: those of torch read memory that they do not use.
check initcheck 60 -k "$no_graphs and (step or strided or wild_values)" \
  python_tests/test_native_walk.py python_tests/test_native_gpu.py
echo "$summary"
exit $failed
