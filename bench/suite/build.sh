# Builds the native library in place, with CUDA where there is an nvcc.
set -eu
MAX_JOBS=${MAX_JOBS:-$(nproc)} "$PYTHON" setup.py build_ext --inplace
"$PYTHON" - <<'PY'
import sys

from sparrow_kernels.ops import native

reason = native.unavailable()
if reason is not None:
    print(f"the native library: {reason}")
    sys.exit(77)
from sparrow_kernels import _C

cuda = ", ".join(_C.cuda_architectures) if _C.built_with_cuda else "none"
print(f"native library loads beside torch {_C.torch_version}; CUDA architectures: {cuda}")
PY
