# Builds the native library in place, with CUDA where there is an nvcc, and with source lines in it
# for the profiler and the sanitizer.
set -eu
export CMAKE_ARGS="${CMAKE_ARGS:-} -DSPARROW_LINE_INFO=ON"
if [ ! -w . ] || [ ! -w sparrow_kernels ]; then
  echo "this checkout cannot be written: nothing was built"
  exit 77
fi
MAX_JOBS=${MAX_JOBS:-$(nproc)} "$PYTHON" setup.py build_ext --inplace
"$PYTHON" - <<'PY'
import os
import sys

from sparrow_kernels.ops import native

reason = native.unavailable()
if reason is not None:
    print(f"the native library: {reason}")
    sys.exit(77)
from sparrow_kernels import _C

cuda = ", ".join(_C.cuda_architectures) if _C.built_with_cuda else "none"
print(f"native library loads beside torch {_C.torch_version}; CUDA architectures: {cuda}")
if not _C.built_with_cuda and not os.environ["NO_GPU"]:
    print("the native library is for the CPU only: no nvcc was found for the GPU that is there")
    sys.exit(77)
PY
