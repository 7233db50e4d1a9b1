# Compiles what a peer compiles at first use, so that no benchmark waits for it.
set -u
if [ -n "$NO_GPU" ]; then
  echo "$NO_GPU: the peers' kernels are compiled for the GPU that is there"
  exit 77
fi
status=77
if [ -z "$QUICK" ]; then # there no peer is measured that torch.compile makes
  "$PYTHON" -m bench.warm peers
  status=$?
  [ $status != 0 ] || touch "$PEERS/compiled"
fi
if command -v nvcc >/dev/null || [ -x "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" ]; then
  "$PYTHON" -m bench.peers.warm
  flashinfer=$?
else
  echo "no nvcc: FlashInfer, which compiles its kernels, cannot run here"
  flashinfer=77
fi
[ $flashinfer = 77 ] || [ $status = 1 ] || status=$flashinfer
exit $status
