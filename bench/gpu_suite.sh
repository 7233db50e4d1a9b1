#!/usr/bin/env bash
# Everything a machine with a GPU can tell about this checkout:
#
#   bench/gpu_suite.sh [--quick] [--within SECONDS] [part[=SECONDS]...]   all parts, or these
#   bench/gpu_suite.sh --list                       each part, its limit in seconds, with --quick
#   bench/gpu_suite.sh --help                       this
#
# --quick takes ten minutes at most: fewer shapes, and without the parts that have a - in that list
# (unless they are named). --within ends everything in so many seconds: what is left is shared out
# among the parts to come by their limits with --quick (100 for one that has none), and what one
# leaves over goes to the next.
# part=SECONDS is a limit of one's own.
#
# Parts run in their order. Those that measure nothing, next to one another, run side by side.
# Where time is short, build here, carry sparrow_kernels/libsparrow_ops.so and build/native.sources
# along, and the part build finds that there is nothing to do.
#
# It uses the Python on PATH (or $PYTHON) as it is and installs nothing. PEER_WHEELS names a folder
# of wheels that this Python lacks; they are unpacked under build/peers, where the peers' kernels
# are compiled too, and found from there. SPARROW_COMMIT says what was measured where git cannot.
# With a Triton before 3.7.1, SPARROW_WGMMA=1 measures the tiles that a later one would run.
# Results, at most 8 files, go into ${OUT:-bench/results/local} as they come: suite.log,
# summary.txt, a CSV for each part that measures, the log of a part at work. What a part measured in
# an earlier run is moved to the folder earlier in there. A folder of committed files is refused.
#
# A part ends with 0 (passed), 77 (cannot run here; its last line says why) or anything else
# (failed). The suite runs to its end whatever happens, and is 0 only if all that can run passed.
#
# On a machine that is bare, and takes commands of at most ten minutes, three of them do it:
#
#   PEER_WHEELS=wheels bench/gpu_suite.sh --within 570 build gpu-tests sanitizer compile peers
#   PEER_WHEELS=wheels bench/gpu_suite.sh --within 570 build compile peers bench-attention
#   PEER_WHEELS=wheels bench/gpu_suite.sh --within 570 build compile bench-trees bench-draft \
#     bench-batches bench-step
#
# and, with the CSV files of all three, python -m bench.summary *.csv; python -m bench.goals *.csv
set -u
cd "$(dirname "$0")/.."

all=(build gpu-tests sanitizer compile peers bench-attention bench-trees bench-draft bench-batches
  bench-step)
declare -A limit=([build]=300 [gpu-tests]=480 [sanitizer]=480 [compile]=480 [peers]=480
  [bench-attention]=540 [bench-batches]=540 [bench-trees]=480 [bench-draft]=480 [bench-step]=300)
declare -A quick_limit=([build]=120 [gpu-tests]=160 [compile]=160
  [bench-attention]=110 [bench-trees]=80 [bench-draft]=70)
beside=" gpu-tests sanitizer compile peers " # these measure nothing
least=20 # seconds: with less left, a part is not begun

stop() {
  echo "bench/gpu_suite.sh: $1" >&2
  exit 2
}

export QUICK=""
within=""
parts=()
declare -A given=()
while [ $# -gt 0 ]; do
  case $1 in
    --list)
      for part in "${all[@]}"; do echo "$part ${limit[$part]} ${quick_limit[$part]:--}"; done
      exit 0
      ;;
    --help | -h)
      sed -n '2,/^[^#]/s/^# \{0,1\}//p' bench/gpu_suite.sh
      exit 0
      ;;
    --quick) QUICK=1 ;;
    --within)
      [[ ${2:-} =~ ^[0-9]+$ ]] || stop "--within takes seconds, got '${2:-}'"
      within=$2
      shift
      ;;
    *)
      part=${1%%=*}
      [ -n "${limit[$part]:-}" ] || stop "no part $part; there are: ${all[*]}"
      parts+=("$part")
      if [ "$part" != "$1" ]; then
        [[ ${1#*=} =~ ^[0-9]+$ ]] || stop "a limit is in seconds, got '$1'"
        given[$part]=${1#*=}
      fi
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
export OUT=${OUT:-$PWD/bench/results/local}
if [ "$OUT" -ef bench/results ] || [ -n "$(git ls-files -- "$OUT" 2>/dev/null | head -n 1)" ]; then
  stop "OUT: $OUT holds committed results, which a run does not touch: write elsewhere, copy them over"
fi
if ! { mkdir -p "$OUT" && touch "$OUT/suite.log"; } 2>/dev/null; then
  elsewhere=$(mktemp -d) || stop "cannot write to $OUT, nor to a temporary folder"
  echo "cannot write to $OUT, results go to $elsewhere"
  OUT=$elsewhere
fi
OUT=$(cd "$OUT" && pwd -P)
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
export PYTHONUNBUFFERED=1
commit=$(git rev-parse --short=12 HEAD 2>/dev/null)
export SPARROW_COMMIT=${SPARROW_COMMIT:-$commit}

peers=$PWD/build/peers # one place: what is compiled there is compiled for files at these paths
{ mkdir -p "$peers" && [ -w "$peers" ]; } 2>/dev/null || peers=$(mktemp -d)
export PEERS=$peers
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
ended=$(mktemp -d)
trap 'rm -rf "$ended"' EXIT
trap 'for began in "$ended"/*.session; do sweep "$(cat "$began")"; done 2>/dev/null; exit 130' INT TERM

# sweep SESSION: what a part left behind (the tools of a part that was cut) would run beside the
# next one.
sweep() {
  local each fields
  for each in /proc/[0-9]*; do
    { read -r fields <"$each/stat"; } 2>/dev/null || continue
    set -- "$1" ${fields##*) } # its state, parent, group and session come next
    [ "$5" != "$1" ] || kill -KILL "${each#/proc/}" 2>/dev/null
  done
}

# aside FILE: what an earlier run measured is kept, under the first number that is free.
aside() {
  local kept=$OUT/earlier name=${1%.*} number=1
  [ -e "$OUT/$1" ] || return 0
  while [ -e "$kept/$name-$number.${1##*.}" ]; do number=$((number + 1)); done
  mkdir -p "$kept" && mv "$OUT/$1" "$kept/$name-$number.${1##*.}"
}

# run PART SECONDS: its status and seconds go into a file. It is interrupted before it is killed,
# so that pytest tells what failed so far.
run() {
  local began=$SECONDS status
  PART_SECONDS=$2 setsid timeout --signal=INT --kill-after=10 "$2" \
    bash "bench/suite/$1.sh" >"$OUT/$1.log" 2>&1 </dev/null &
  echo $! >"$ended/$1.session"
  wait $!
  status=$?
  sweep "$(cat "$ended/$1.session")"
  echo "$status $((SECONDS - began))" >"$ended/$1"
}

# tell PART SECONDS: a line of the summary, and its log behind that of the others.
tell() {
  local part=$1 status=0 took=0 word last
  if [ "$2" -lt $least ]; then
    word="NO TIME" last="${within:+--within $within s is over}" failed=1
  else
    read -r status took <"$ended/$part"
    case $status in
      0) word=passed ;;
      77) word="not here" ;;
      124 | 137) word="TIMED OUT" failed=1 ;;
      *) word="FAILED ($status)" failed=1 ;;
    esac
    [ "$status" = 0 ] || [ "$status" = 77 ] || tail -n 25 "$OUT/$part.log"
    last=$(grep -v '^[[:space:]]*$' "$OUT/$part.log" | tail -n 1)
    last=${last//"$OUT/"/} last=${last:0:150} # of results the names: where they lie is this machine's
    printf '\n== %s, at most %s s\n' "$part" "$2" >>"$log"
    cat "$OUT/$part.log" >>"$log" && rm "$OUT/$part.log"
  fi
  printf '%-16s %-11s %4s s  %s\n' "$part" "$word" "$took" "$last" | tee -a "$summary"
  [ ! -s "$OUT/$part.csv" ] || results+=("$OUT/$part.csv")
}

weight() { echo "${quick_limit[$1]:-100}"; }

next=0
while [ $next -lt ${#parts[@]} ]; do
  together=()
  while [ $next -lt ${#parts[@]} ]; do # one part, or all that may run beside it
    part=${parts[$next]}
    [ ${#together[@]} = 0 ] || [[ $beside == *" $part "* && $beside == *" ${together[0]} "* ]] ||
      break
    together+=("$part")
    next=$((next + 1))
  done
  left=$((within - SECONDS - 15)) # the end takes a few seconds too
  heaviest=0 others=0
  for part in "${together[@]}"; do
    [ "$(weight "$part")" -le $heaviest ] || heaviest=$(weight "$part")
  done
  for part in "${parts[@]:$next}"; do
    # Of what runs side by side only the longest counts, and a build may find nothing to do.
    [[ $beside == *" $part "* || $part = build ]] || others=$((others + $(weight "$part")))
  done
  share=$((left > 0 ? left * heaviest / (heaviest + others) : 0))
  [ "${together[0]}" != build ] || share=$left # without it the others tell little
  declare -A seconds=()
  for part in "${together[@]}"; do
    most=${given[$part]:-${limit[$part]}} room=$share
    [ -z "${given[$part]:-}" ] || room=$left
    [ -z "$QUICK" ] || most=${given[$part]:-${quick_limit[$part]:-$most}}
    [ -z "$within" ] || [ "$room" -ge "$most" ] || most=$room
    seconds[$part]=$most
    [ "$most" -ge $least ] || continue
    aside "$part.csv"
    [ "$part" != bench-step ] || aside step.json
    run "$part" "$most" &
  done
  wait
  for part in "${together[@]}"; do tell "$part" "${seconds[$part]}"; done
done

if [ ${#results[@]} -gt 0 ]; then
  {
    "$PYTHON" -m bench.summary "${results[@]}"
    echo
    "$PYTHON" -m bench.goals "${results[@]}"
  } 2>&1 | tee -a "$summary"
fi
exit $failed
