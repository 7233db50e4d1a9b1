# Compiles our Triton kernels for the shapes that are measured, many at a time.
set -u
if [ -n "$NO_GPU" ]; then
  echo "$NO_GPU: kernels are compiled for the GPU that is there"
  exit 77
fi
exec "$PYTHON" -m bench.warm ours ${QUICK:+--quick}
