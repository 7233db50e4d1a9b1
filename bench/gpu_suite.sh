#!/usr/bin/env bash
# Everything a machine with a GPU can tell about this checkout:
#
#   bench/gpu_suite.sh [--quick] [--within SECONDS] [part...]   all parts, or these, in this order
#   bench/gpu_suite.sh --list                       each part, its limit in seconds, with --quick
#
# --quick takes ten minutes at most: fewer shapes, and without the parts that have a - in that list
# (unless they are named). --within ends everything in so many seconds.
#
# It uses the Python on PATH (or $PYTHON) as it is and installs nothing. PEER_WHEELS names a folder
# of wheels that this Python lacks; they are unpacked under build/peers, where the peers' kernels
# are compiled too, and found from there. SPARROW_COMMIT says what was measured where git cannot.
# Results, at most 8 files, go into ${OUT:-bench/results} as they come: suite.log, summary.txt, a
# CSV for each part that measures.
#
# A part ends with 0 (passed), 77 (cannot run here; its last line says why) or anything else
# (failed). The suite runs to its end whatever happens, and is 0 only if all that can run passed.
#
# On a machine that is bare, and takes commands of at most ten minutes, four of them do it:
#
#   bench/gpu_suite.sh --within 570 build gpu-tests sanitizer
#   PEER_WHEELS=wheels bench/gpu_suite.sh --within 570 build peers bench-attention
#   PEER_WHEELS=wheels bench/gpu_suite.sh --within 570 build bench-batches
#   bench/gpu_suite.sh --within 570 build bench-trees bench-draft
#
# and, with the CSV files of all four, python -m bench.summary *.csv; python -m bench.goals *.csv
set -u
cd "$(dirname "$0")/.."

all=(build gpu-tests sanitizer peers bench-attention bench-batches bench-trees bench-draft)
declare -A limit=([build]=300 [gpu-tests]=480 [sanitizer]=480 [peers]=480
  [bench-attention]=540 [bench-batches]=540 [bench-trees]=480 [bench-draft]=480)
declare -A quick_limit=([build]=150 [gpu-tests]=160
  [bench-attention]=110 [bench-trees]=80 [bench-draft]=70)
least=20 # seconds: with less left, a part is not begun

stop() {
  echo "bench/gpu_suite.sh: $1" >&2
  exit 2
}

export QUICK=""
within=""
parts=()
while [ $# -gt 0 ]; do
  case $1 in
    --list)
      for part in "${all[@]}"; do echo "$part ${limit[$part]} ${quick_limit[$part]:--}"; done
      exit 0
      ;;
    --quick) QUICK=1 ;;
    --within)
      [[ ${2:-} =~ ^[0-9]+$ ]] || stop "--within takes seconds, got '${2:-}'"
      within=$2
      shift
      ;;
    *)
      [ -n "${limit[$1]:-}" ] || stop "no part $1; there are: ${all[*]}"
      parts+=("$1")
      ;;
  esac
  shift
done
if [ ${#parts[@]} = 0 ]; then
  for part in "${all[@]}"; do
    [ -n "$QUICK" ] && [ -z "${quick_limit[$part]:-}" ] || parts+=("$part")
  done
fi

export PYTHON=${PYTHON:-python3}
command -v "$PYTHON" >/dev/null || stop "no Python: $PYTHON"
scripts=$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("scripts"))')
export PATH=$scripts:$PATH # cmake and ninja, where this Python is not the activated one
export OUT=${OUT:-$PWD/bench/results}
if ! { mkdir -p "$OUT" && touch "$OUT/suite.log"; } 2>/dev/null; then
  elsewhere=$(mktemp -d) || stop "cannot write to $OUT, nor to a temporary folder"
  echo "cannot write to $OUT, results go to $elsewhere"
  OUT=$elsewhere
fi
OUT=$(cd "$OUT" && pwd)
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
export PYTHONUNBUFFERED=1
commit=$(git rev-parse --short=12 HEAD 2>/dev/null)
export SPARROW_COMMIT=${SPARROW_COMMIT:-$commit}

peers=$PWD/build/peers # one place: what is compiled there is compiled for files at these paths
{ mkdir -p "$peers" && [ -w "$peers" ]; } 2>/dev/null || peers=$(mktemp -d)
export FLASHINFER_WORKSPACE_BASE=${FLASHINFER_WORKSPACE_BASE:-$peers}
export FLASHINFER_LOGGING_LEVEL=${FLASHINFER_LOGGING_LEVEL:-warning}
if [ -n "${PEER_WHEELS:-}" ]; then
  [ -d "$PEER_WHEELS" ] || stop "PEER_WHEELS: no folder $PEER_WHEELS"
  for wheel in "$PEER_WHEELS"/*.whl; do
    name=$(basename "$wheel" .whl)
    [ -f "$wheel" ] && [ ! -e "$peers/$name.unpacked" ] || continue
    "$PYTHON" -m zipfile -e "$wheel" "$peers/site" && touch "$peers/$name.unpacked" ||
      echo "cannot unpack $wheel"
  done
  PYTHONPATH=$PYTHONPATH:$peers/site
fi

# Why there is nothing to measure here, empty where there is a GPU.
NO_GPU=$("$PYTHON" - 2>/dev/null <<'PY' || echo "$PYTHON cannot import torch"
import torch
print("" if torch.cuda.is_available() else "no CUDA GPU that this torch can use")
PY
)
export NO_GPU

log=$OUT/suite.log
summary=$OUT/summary.txt
: >"$log"
printf 'commit %s%s\n\n' "${SPARROW_COMMIT:-unknown}" "${NO_GPU:+, $NO_GPU}" | tee "$summary"
failed=0
results=()
for part in "${parts[@]}"; do
  PART_SECONDS=${limit[$part]}
  [ -z "$QUICK" ] || PART_SECONDS=${quick_limit[$part]:-$PART_SECONDS}
  if [ -n "$within" ]; then
    left=$((within - SECONDS - 15)) # the end takes a few seconds too
    [ "$left" -ge "$PART_SECONDS" ] || PART_SECONDS=$left
  fi
  export PART_SECONDS
  began=$SECONDS
  if [ "$PART_SECONDS" -lt $least ]; then
    word="NO TIME" last="--within $within s is over" failed=1
  else
    rm -f "$OUT/$part.csv" # of an earlier run
    printf '\n== %s, at most %s s\n' "$part" "$PART_SECONDS" >>"$log"
    before=$(stat -c %s "$log")
    timeout --kill-after=10 "$PART_SECONDS" bash "bench/suite/$part.sh" >>"$log" 2>&1 </dev/null
    status=$?
    case $status in
      0) word=passed ;;
      77) word="not here" ;;
      124 | 137) word="TIMED OUT" failed=1 ;;
      *) word="FAILED ($status)" failed=1 ;;
    esac
    [ "$status" = 0 ] || [ "$status" = 77 ] || tail -c "+$((before + 1))" "$log" | tail -n 25
    last=$(tail -c "+$((before + 1))" "$log" | grep -v '^[[:space:]]*$' | tail -n 1 | cut -c 1-150)
  fi
  printf '%-16s %-11s %4s s  %s\n' "$part" "$word" $((SECONDS - began)) "$last" | tee -a "$summary"
  [ ! -s "$OUT/$part.csv" ] || results+=("$OUT/$part.csv")
done

if [ ${#results[@]} -gt 0 ]; then
  {
    "$PYTHON" -m bench.summary "${results[@]}"
    echo
    "$PYTHON" -m bench.goals "${results[@]}"
  } 2>&1 | tee -a "$summary"
fi
exit $failed
