"""What is read from a cubin: planted kernels whose faults are known, and occupancies by hand."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from bench import cubin, shipped, static, static_limits
from bench.cubin import Kernel, occupancy
from bench.shipped import ARCHITECTURES, Compiled

NVCC = shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"

PLANTED = """
__global__ void __launch_bounds__(1024, 2) spills(const float* in, float* out) {
  float v[48];  // more than the 32 registers that two such blocks leave a thread
#pragma unroll
  for (int i = 0; i < 48; ++i) v[i] = in[i * 1024 + threadIdx.x];
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 48; ++i) out[i * 1024 + threadIdx.x] = v[i] + v[47 - i] * v[0];
}
__global__ void __launch_bounds__(64) keeps_an_array(const int* in, int* out) {
  int v[300];
  for (int i = 0; i < 300; ++i) v[i] = in[i];
  for (int i = 0; i < 300; ++i) v[in[i] & 255] += i;
  out[threadIdx.x] = v[in[threadIdx.x] & 255];
}
namespace {
template <int kRows, typename Element>
__global__ void __launch_bounds__(128) sound(const Element* in, Element* out) {
  __shared__ Element rows[kRows];
  rows[threadIdx.x] = in[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = rows[127 - threadIdx.x];
}
}  // namespace
void* keep = (void*)sound<256, float>;
#include <cuda_fp16.h>
#include <mma.h>
__global__ void tensor_cores(const half* in, float* out) {
  using namespace nvcuda::wmma;
  fragment<matrix_a, 16, 16, 16, half, row_major> a;
  fragment<matrix_b, 16, 16, 16, half, row_major> b;
  fragment<accumulator, 16, 16, 16, float> sum;
  fill_fragment(sum, 0.0f);
  load_matrix_sync(a, in, 16);
  load_matrix_sync(b, in + 256, 16);
  mma_sync(sum, a, b, sum);
  store_matrix_sync(out, sum, 16, mem_row_major);
}
__global__ void copies(const int4* in, int4* out) {
  __shared__ int4 row[32];
  unsigned to = __cvta_generic_to_shared(row + threadIdx.x);
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(in + threadIdx.x));
  asm volatile("cp.async.wait_all;");
  __syncthreads();
  out[threadIdx.x] = row[31 - threadIdx.x];
}
template <int kLeft>
__global__ void __launch_bounds__(128) pipelined(const int4* in, int4* out, int tiles) {
  __shared__ int4 tile[2][128];  // each thread reads back what it copied itself
  for (int i = 0; i <= kLeft; ++i) {
    unsigned to = __cvta_generic_to_shared(&tile[i][threadIdx.x]);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(in + i * 128));
    asm volatile("cp.async.commit_group;");
  }
  int4 sum = {};
#pragma unroll 1
  for (int i = 0; i < tiles; ++i) {
    asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
    int4 one = tile[i & kLeft][threadIdx.x];
    sum.x += one.x * one.y;
    unsigned to = __cvta_generic_to_shared(&tile[i & kLeft][threadIdx.x]);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(in + i) : "memory");
    asm volatile("cp.async.commit_group;");
  }
  out[threadIdx.x] = sum;
}
void* overlaps = (void*)pipelined<1>;
void* waits = (void*)pipelined<0>;
__global__ void __launch_bounds__(128) fences(int* flags) {
  flags[threadIdx.x] = 1;
  __threadfence_block();
  flags[threadIdx.x + 128] = 1;
  __threadfence();
  flags[threadIdx.x + 256] = 1;
}
"""


class Planted:
    """The planted kernels for one architecture, by plain name, and what ptxas said of them."""

    def __init__(self, arch: int, folder: Path) -> None:
        source, target = folder / "planted.cu", folder / f"{arch}.cubin"
        source.write_text(PLANTED)
        options = [f"-arch=sm_{arch}", "-cubin", "-Xptxas=-v", str(source), "-o", str(target)]
        done = subprocess.run([NVCC, *options], capture_output=True, text=True, check=True)
        self.arch, self.report = arch, done.stderr
        kernels = cubin.read(target, arch)
        names = shipped.plain_names([kernel.symbol for kernel in kernels])
        self.kernels = dict(zip(names, kernels, strict=True))

    def failures(self, name: str) -> list[str]:
        kernel = self.kernels[name]
        each = Compiled(name, self.arch, kernel, kernel.smem_bytes, kernel.threads, False)
        return static_limits.kernel_failures(each)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def planted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Planted:
    if not Path(NVCC).exists():
        pytest.skip("no nvcc to compile planted kernels with")
    return Planted(request.param, tmp_path_factory.mktemp("cubin"))


@pytest.mark.slow
def test_a_spill_is_found_and_counted_as_ptxas_does(planted: Planted) -> None:
    kernel = planted.kernels["spills"]
    said = re.search(
        r"properties for \S*spills\S*\s+(\d+) bytes stack frame, (\d+) bytes spill stores",
        planted.report,
    )
    assert said is not None
    assert (kernel.stack_bytes, kernel.spill_bytes) == (int(said[1]), int(said[2]))
    assert kernel.spill_bytes > 0
    assert kernel.registers == 32
    assert planted.failures("spills") == [
        f"spills sm_{planted.arch}: spills {kernel.spill_bytes} bytes"
    ]


@pytest.mark.slow
def test_a_stack_is_found(planted: Planted) -> None:
    kernel = planted.kernels["keeps_an_array"]
    assert kernel.stack_bytes >= 1200
    assert len(planted.failures("keeps_an_array")) == 1  # its stores look like those of a spill


@pytest.mark.slow
def test_a_sound_kernel_is_read_as_it_is(planted: Planted) -> None:
    kernel = planted.kernels["sound<256, float>"]
    assert (kernel.smem_bytes, kernel.threads) == (1024, 128)
    assert (kernel.stack_bytes, kernel.spill_bytes) == (0, 0)
    assert (kernel.tensor_core_ops, kernel.async_copies) == (0, 0)
    used = re.search(r"function '\S*sound\S*'[\s\S]*?Used (\d+) registers", planted.report)
    assert used is not None
    assert kernel.registers == int(used[1])
    assert planted.failures("sound<256, float>") == []
    assert planted.kernels["copies"].threads is None


@pytest.mark.slow
def test_instructions_are_counted(planted: Planted) -> None:
    assert planted.kernels["tensor_cores"].tensor_core_ops == 2
    assert planted.kernels["tensor_cores"].async_copies == 0
    assert planted.kernels["copies"].tensor_core_ops == 0
    assert planted.kernels["copies"].async_copies == 1


def waits_and_copies(kernel: Kernel) -> tuple[int, int, int]:
    loop = kernel.main_loop
    assert loop is not None and loop.tensor_flops == loop.exps == 0 < loop.instructions
    return loop.wait_distance, loop.groups, loop.bytes


@pytest.mark.slow
def test_a_main_loop_that_waits_for_all_its_copies_is_a_failure(planted: Planted) -> None:
    good, bad = "pipelined<1>", "pipelined<0>"
    assert waits_and_copies(planted.kernels[good]) == (1, 1, 16)
    assert planted.failures(good) == []
    assert waits_and_copies(planted.kernels[bad]) == (0, 1, 16)
    assert planted.failures(bad) == [
        f"{bad} sm_{planted.arch}: its main loop waits for every copy: nothing overlaps"
    ]
    assert planted.kernels["copies"].main_loop is None  # in no loop
    each = Compiled(good, planted.arch, planted.kernels[good], 4096, 128, False)
    row = static.row_of(each, "nvcc", "")
    resident = float(row["occupancy"]) * 64 * 32
    assert row["wait_distance"] == "1" and int(row["bytes_in_flight"]) == 16 * resident


@pytest.mark.slow
def test_fences_of_the_whole_gpu_are_counted(planted: Planted) -> None:
    assert planted.kernels["fences"].gpu_fences == 1  # not that of the block
    assert planted.kernels["sound<256, float>"].gpu_fences == 0


def kernel(**numbers: int) -> Kernel:
    sound = {"registers": 32, "smem_bytes": 0, "stack_bytes": 0, "spill_bytes": 0}
    counts = {"tensor_core_ops": 0, "async_copies": 0, "threads": 128}
    return Kernel("symbol", **(sound | counts | numbers))


def test_tensor_cores_and_copies_where_they_are_expected() -> None:
    bare, whole = kernel(), kernel(tensor_core_ops=8, async_copies=4)
    assert len(static_limits.kernel_failures(Compiled("a", 90, bare, 0, 128, True))) == 2
    assert static_limits.kernel_failures(Compiled("a", 90, bare, 0, 128, False)) == []
    assert static_limits.kernel_failures(Compiled("a", 90, whole, 0, 128, True)) == []


def test_a_block_that_no_multiprocessor_holds() -> None:
    much = Compiled("a", 80, kernel(), 164 * 1024, 128, False)
    assert static_limits.kernel_failures(much) == ["a sm_80: no block of it fits a multiprocessor"]


def test_a_kernel_of_8_0_fits_its_smaller_kin() -> None:
    def failures(arch: int, smem_bytes: int) -> list[str]:
        return static_limits.kernel_failures(Compiled("a", arch, kernel(), smem_bytes, 128, False))

    assert failures(80, 99 * 1024) == failures(90, 200 * 1024) == []
    (failure,) = failures(80, 99 * 1024 + 16)
    assert "101392 bytes of shared memory, more than the 99 KB" in failure


# Worked out by hand. A warp's registers come in units of 256, a partition has 16,384.
OCCUPANCIES = {
    "nothing in the way": (80, 128, 32, 0, 1.0),
    "registers: 8 warps a partition": (80, 256, 64, 0, 0.5),
    "registers, rounded up: 7 a partition": (80, 32, 65, 0, 28 / 64),
    "255 registers": (90, 128, 255, 0, 8 / 64),
    "shared memory: one block": (80, 128, 32, 163 * 1024, 4 / 64),
    "shared memory: the reserved KiB counts": (80, 128, 32, 81 * 1024 + 1, 4 / 64),
    "shared memory: two blocks": (80, 128, 32, 81 * 1024, 8 / 64),
    "shared memory of Hopper": (90, 128, 32, 113 * 1024, 8 / 64),
    "32 blocks": (90, 32, 16, 0, 0.5),
    "a block that does not fit": (90, 1024, 72, 0, 0.0),
}


@pytest.mark.parametrize("name", OCCUPANCIES)
def test_occupancy(name: str) -> None:
    *arguments, expected = OCCUPANCIES[name]
    assert occupancy(*arguments) == expected  # type: ignore[arg-type]
