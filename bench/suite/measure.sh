# The cases of some families, for the parts bench-*: measure.sh NAME FAMILY...
# Rows go to $OUT/NAME.csv as they come. Without a GPU every case runs once, small, on the CPU: that
# shows that the command works, and is no result.
set -u
name=$1
shift
run=("$PYTHON" -m bench.run --all --csv-only --out "$OUT")
for family in "$@"; do run+=(--family "$family"); done
if [ -n "$NO_GPU" ]; then
  "${run[@]}" --smoke --device cpu --peers none --name "$name-smoke" || exit
  echo "$NO_GPU: nothing measured, every case right once on the CPU"
  exit 77
fi
# A case whose peers compile for half a minute would stand in for many: the part peers does it.
[ -e "$PEERS/compiled" ] || run+=(--no-compile)
# What is left after the limit of beginning is for the case begun before it, and for the tables.
exec "${run[@]}" ${QUICK:+--quick} --device cuda --name "$name" --limit $((PART_SECONDS * 4 / 5))
