# Compiles what a peer compiles at first use, so that no benchmark waits for it.
set -u
if [ -n "$NO_GPU" ]; then
  echo "$NO_GPU: the peers' kernels are compiled for the GPU that is there"
  exit 77
fi
if ! command -v nvcc >/dev/null && [ ! -x "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" ]; then
  echo "no nvcc: a peer that compiles its kernels cannot run here"
  exit 77
fi
exec "$PYTHON" -m bench.peers.warm
