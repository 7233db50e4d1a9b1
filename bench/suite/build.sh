# Builds the native library in place, with CUDA where there is an nvcc, and with source lines in it
# for the profiler and the sanitizer. One that was carried here, made from these very sources, stays.
set -eu
export CMAKE_ARGS="${CMAKE_ARGS:-} -DSPARROW_LINE_INFO=ON"
library=sparrow_kernels/libsparrow_ops.so
stamp=build/native.sources # beside the library, wherever it goes: what it was made of, and itself

made_of() {
  { find csrc CMakeLists.txt setup.py -type f -print0 | LC_ALL=C sort -z; printf '%s\0' $library; } |
    xargs -0 sha256sum
}

loads() {
  "$PYTHON" - <<'PY'
import os
import sys

import torch

from sparrow_kernels.ops import native

reason = native.unavailable()
if reason is None and not os.environ["NO_GPU"]:
    reason = native.unavailable_on_cuda("build_tree")
print(f"the native library: {reason or f'loads beside torch {torch.__version__}'}")
sys.exit(0 if reason is None else 77)
PY
}

if [ -f $library ] && [ -f $stamp ] && [ "$(made_of)" = "$(cat $stamp)" ] && loads; then
  echo "the native library is made from these sources: nothing to build"
  exit
fi
if [ ! -w . ] || [ ! -w sparrow_kernels ]; then
  echo "this checkout cannot be written: nothing was built"
  exit 77
fi
MAX_JOBS=${MAX_JOBS:-$(nproc)} "$PYTHON" setup.py build_ext --inplace
[ ! -f $library ] || made_of >$stamp
loads
