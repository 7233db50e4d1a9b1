# The gpu tests of the kernels once more under compute-sanitizer, its tools side by side: barriers
# (synccheck), races in shared memory (racecheck), accesses (memcheck), uninitialised reads
# (initcheck). Each is a process of a core; all of them end within SANITIZER_SECONDS.
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
export OMP_NUM_THREADS=1
# What is left of the part's own limit, less what a tool that is cut takes to say so.
seconds=${SANITIZER_SECONDS:-$((${PART_SECONDS:-170} < 170 ? ${PART_SECONDS:-170} - 20 : 150))}
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
names=()
processes=()

# check TOOL WHAT TESTS...: a tool over some tests, in the background.
check() {
  local tool=$1 name="$1 of $2"
  shift 2
  timeout --signal=INT --kill-after=10 "$seconds" \
    compute-sanitizer --tool "$tool" --error-exitcode 9 \
    "$PYTHON" -m pytest -q -m gpu -p no:cacheprovider --hypothesis-seed=0 "$@" \
    >"$logs/$name" 2>&1 &
  names+=("$name")
  processes+=($!)
}

tests() { printf "python_tests/native/test_native_%s.py " "$@"; }
# A capture cannot allocate without the pool.
few="not captured and not capturing and not graph and not ten_thousand and not large"
few+=" and not two_sizes and not repeated_calls"
residual=$(tests residual residual_apart)
rows=$(tests topk sample sampling_rows schemas)
trees=$(tests tree walk accept)
caches=$(tests append gather pages gpu)

check synccheck "everything native" -k "$few" $residual $rows $trees $caches $(tests threads)
check racecheck "the residual walk" -k "$few" $residual
check racecheck "top-k and sampling" -k "$few" $rows
check racecheck "trees" -k "$few" $trees
check racecheck "caches and commit" -k "$few" $caches
check memcheck "the residual walk" -k "$few and not every_number" $residual
check memcheck "top-k and sampling" -k "$few and not every_number" $rows
check memcheck "trees" -k "$few and not every_number" $trees
check memcheck "append" -k "$few and not every_number" $(tests append pages)
check memcheck "gathering and commit" -k "$few and not every_number" $(tests gather gpu)
check memcheck "two tables of tree attention" -k "table_s_own_tiles and (two or float16)" \
  python_tests/triton/test_triton_tree.py
# Only what no torch kernel takes part in: those of torch read memory that they do not use.
check initcheck "steps" -k "$few and (step or strided or wild_values)" $(tests walk gpu)

failed=0
summary=""
for i in "${!names[@]}"; do
  wait "${processes[$i]}"
  case $? in
    0) word=passed ;;
    5) word="no tests" failed=1 ;;
    124 | 137) word="cut at $seconds s" failed=1 ;;
    *) word=FAILED failed=1 ;;
  esac
  echo "== ${names[$i]}: $word"
  grep -v '^=* *COMPUTE-SANITIZER' "$logs/${names[$i]}" | tail -n 40
  summary+="${names[$i]} $word; "
done
echo "$summary"
exit $failed
