#!/usr/bin/env bash
# Everything a machine with a GPU can tell about this checkout, in one command:
#
#   bench/gpu_suite.sh [part...]      parts: build gpu-tests sanitizer benchmarks (all, in this order)
#
# Uses the Python on PATH (or $PYTHON) as it is and installs nothing. Logs go to ${OUT:-bench/results}.
# A part ends with 0 (passed), 77 (cannot run here; its last line says why) or anything else (failed).
# The suite runs to its end whatever happens, and is 0 only if nothing failed.
set -u
cd "$(dirname "$0")/.."
export PYTHON=${PYTHON:-python3}
export OUT=${OUT:-$PWD/bench/results}
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
export PYTHONUNBUFFERED=1
mkdir -p "$OUT"

declare -A seconds=([build]=400 [gpu-tests]=300 [sanitizer]=300 [benchmarks]=500)
parts=("$@")
[ $# -gt 0 ] || parts=(build gpu-tests sanitizer benchmarks)

table=""
failed=0
for part in "${parts[@]}"; do
  log=$OUT/$part.log
  if [ ! -f "bench/suite/$part.sh" ]; then
    echo "bench/gpu_suite.sh: no part $part; there are: $(ls bench/suite | sed 's/\.sh//' | xargs)" >&2
    exit 2
  fi
  echo "== $part"
  began=$SECONDS
  timeout --kill-after=10 "${seconds[$part]}" bash "bench/suite/$part.sh" >"$log" 2>&1
  status=$?
  case $status in
    0) word=passed ;;
    77) word="not here" ;;
    124 | 137) word="TIMED OUT" failed=1 ;;
    *) word="FAILED ($status)" failed=1 ;;
  esac
  [ "$status" = 0 ] || [ "$status" = 77 ] || tail -n 25 "$log"
  last=$(grep -v '^[[:space:]]*$' "$log" | tail -n 1)
  table+=$(printf '%-12s %-12s %5ss  %s' "$part" "$word" $((SECONDS - began)) "$last")$'\n'
done

printf '\n%s\n' "$table" | tee "$OUT/summary.txt"
exit $failed
