"""The emulator that runs the CUDA kernels on a CPU: it must find what a GPU would only sometimes.

Each kernel below is wrong in one way, or right in a way that is easily emulated wrong.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from emulation import compile_program

KERNELS = r"""
#include <atomic>
#include <cstdio>
#include <cstring>
#include <exception>
#include <thread>
#include <vector>
#include "cuda/block.h"
#include "cuda/cluster.h"
#include "cuda/launch.h"

using namespace sparrow::cuda;

#include "cuda/dependent.h"

struct Row { int at[64]; };

__global__ void left_early(int*) {
  if (threadIdx.x == 3) return;
  __syncthreads();
}
__global__ void two_barriers(int*) {
  if (threadIdx.x % 2 == 0) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}
__global__ void lane_past_the_block(int*) { __syncwarp(0xffffffffu); }
__global__ void lane_not_in_mask(int*) { __ballot_sync(0xfu, 1); }
__global__ void lane_never_comes(int*) {
  if (threadIdx.x != 5) __syncwarp(0xffffffffu);
}
__global__ void different_operations(int*) {
  if (threadIdx.x == 5) {
    __syncwarp(0xffffffffu);
  } else {
    __ballot_sync(0xffffffffu, 1);
  }
}
template <bool kIsRight>
__global__ void neighbours(int* out) {
  SPARROW_SHARED(Row, row);
  row.at[threadIdx.x] = static_cast<int>(threadIdx.x);
  if (kIsRight) __syncthreads();
  out[blockIdx.x * 64 + threadIdx.x] = row.at[(threadIdx.x + 1) % 64];
}
// The values of a warp, handed on by lane 0. A shuffle orders no memory.
template <bool kIsRight>
__global__ void lane_0_writes(int* out) {
  SPARROW_SHARED(Row, row);
  const int lane = threadIdx.x % 32;
  if (lane == 0) row.at[threadIdx.x] = 7;
  __shfl_sync(kWholeWarp, lane, 0);
  if (kIsRight) __syncwarp();
  out[blockIdx.x * 64 + threadIdx.x] = row.at[threadIdx.x - lane];
}
// The last block to count itself in adds up what all of them left.
template <bool kReleases, bool kAcquires>
__global__ void last_block_adds(int* out) {
  if (threadIdx.x == 1) out[1 + blockIdx.x] = 10;
  __syncthreads();
  if (threadIdx.x != 0) return;
  if (kReleases) __threadfence();
  if (atomicAdd(reinterpret_cast<unsigned*>(out), 1u) != gridDim.x - 2) return;
  if (kAcquires) __threadfence();
  for (unsigned b = 0; b < gridDim.x; ++b) out[5] += out[1 + b];
}
// Launched as one that may have begun too early. Its own shared memory is there at once.
template <bool kWaits>
__global__ void begins_early(int* out) {
  SPARROW_SHARED(Row, row);
  row.at[threadIdx.x] = 5;
  if (kWaits || threadIdx.x != 40) wait_for_kernel_before();
  out[blockIdx.x * 64 + threadIdx.x] = row.at[threadIdx.x];
}
__global__ void every_thread_one_byte(int* out) {
  reinterpret_cast<char*>(out)[blockIdx.x * 64 + threadIdx.x] = 1;
}
__global__ void who_came_when(int* out) {
  SPARROW_SHARED(Row, row);
  if (threadIdx.x == 0) row.at[0] = 0;
  __syncthreads();
  out[blockIdx.x * 64 + threadIdx.x] = atomicAdd(&row.at[0], 1);
}
__global__ void warp_operations(int* out) {
  const int lane = threadIdx.x % 32;
  int sum = __shfl_sync(kWholeWarp, lane, 7, 16) + __shfl_down_sync(kWholeWarp, lane, 3);
  sum += __shfl_xor_sync(kWholeWarp, lane, 1) + __shfl_up_sync(kWholeWarp, lane, 2, 8);
  sum += static_cast<int>(__match_any_sync(kWholeWarp, lane % 3));
  out[blockIdx.x * 64 + threadIdx.x] = sum + __reduce_max_sync(kWholeWarp, lane ^ 5);
}
// Every block writes its neighbour's memory and then reads it; barriers 1, 2, 3 may be missing.
template <int kMissing>
__global__ void of_the_cluster(int* out) {
  int* own = reinterpret_cast<int*>(dynamic_shared());
  const unsigned next = (cluster_rank() + 1) % cluster_size();
  if (kMissing != 1) cluster_sync();
  of_block(own, next)[threadIdx.x] = static_cast<int>(blockIdx.x * 100 + threadIdx.x);
  if (kMissing != 2) cluster_sync();
  const bool is_negative = of_block(own, next)[threadIdx.x] < 0;
  out[blockIdx.x * 64 + threadIdx.x] = is_negative ? -1 : own[threadIdx.x];
  if (kMissing != 3) cluster_sync();
}

__global__ void shared_memory_alone(int* out) {
  SPARROW_SHARED(Row, row);
  row.at[threadIdx.x % 64] = 0;
  out[0] = dynamic_shared()[0] = 0;
}

// Two host threads, each with launches of one size; how many of them were refused.
int refused_of_two_threads() {
  std::atomic<int> refused = 0;
  const auto run = [&](size_t bytes) {
    int out = 0;
    for (int i = 0; i < 100; ++i) {
      try {
        launch("two sizes", shared_memory_alone,
               {.blocks = 1, .threads = 1, .shared_bytes = bytes}, nullptr, &out);
      } catch (const std::exception&) {
        ++refused;
      }
    }
  };
  std::thread other(run, 50 * 1024);
  run(90 * 1024);
  other.join();
  return refused;
}

int main(int, char** arguments) {
  std::vector<int> out(64 * 4, -1);
  const char* name = arguments[1];
  if (!std::strcmp(name, "two_threads")) {
    std::printf("%d", refused_of_two_threads());
    return 0;
  }
  const auto run = [&](void (*kernel)(int*), int threads, int cluster = 1) {
    launch(name, kernel, {.blocks = 4, .threads = threads, .shared_bytes = 256, .cluster = cluster},
           nullptr, out.data());
  };
  try {
    if (!std::strcmp(name, "left_early")) run(left_early, 64);
    if (!std::strcmp(name, "two_barriers")) run(two_barriers, 64);
    if (!std::strcmp(name, "lane_past_the_block")) run(lane_past_the_block, 48);
    if (!std::strcmp(name, "lane_not_in_mask")) run(lane_not_in_mask, 32);
    if (!std::strcmp(name, "lane_never_comes")) run(lane_never_comes, 32);
    if (!std::strcmp(name, "different_operations")) run(different_operations, 32);
    if (!std::strcmp(name, "race")) run(neighbours<false>, 64);
    if (!std::strcmp(name, "no_race")) run(neighbours<true>, 64);
    if (!std::strcmp(name, "warp_operations")) run(warp_operations, 64);
    if (!std::strcmp(name, "shuffled")) run(lane_0_writes<false>, 64);
    if (!std::strcmp(name, "warp_synced")) run(lane_0_writes<true>, 64);
    if (!std::strcmp(name, "no_release")) run(last_block_adds<false, true>, 64);
    if (!std::strcmp(name, "no_acquire")) run(last_block_adds<true, false>, 64);
    if (!std::strcmp(name, "fences")) run(last_block_adds<true, true>, 64);
    if (!std::strcmp(name, "bytes")) run(every_thread_one_byte, 64);
    if (!std::strcmp(name, "who_came_when")) run(who_came_when, 64);
    if (!std::strcmp(name, "of_the_cluster")) run(of_the_cluster<0>, 64, 2);
    if (!std::strcmp(name, "before_it_begins")) run(of_the_cluster<1>, 64, 2);
    if (!std::strcmp(name, "before_it_is_written")) run(of_the_cluster<2>, 64, 2);
    if (!std::strcmp(name, "after_it_ended")) run(of_the_cluster<3>, 64, 2);
    const Grid early{.blocks = 4, .threads = 64, .dependent = true};
    if (!std::strcmp(name, "waits")) launch(name, begins_early<true>, early, nullptr, out.data());
    if (!std::strcmp(name, "waits_not")) {
      launch(name, begins_early<false>, early, nullptr, out.data());
    }
    if (!std::strcmp(name, "too_many_threads")) run(left_early, 1056);
  } catch (const std::exception& error) {
    std::printf("%s\n", error.what());
    return 1;
  }
  for (const int value : out) std::printf("%d ", value);
  return 0;
}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_program(tmp_path_factory.mktemp("emulation"), KERNELS)


def output(program: Path, kernel: str, seed: int = 0) -> tuple[int, str]:
    result = subprocess.run(
        [program, kernel],
        env={"SPARROW_EMULATION_SEED": str(seed)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return result.returncode, result.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        ("left_early", "left the kernel"),
        ("two_barriers", "different barriers"),
        ("lane_past_the_block", "mask names lanes past the block"),
        ("lane_not_in_mask", "own lane not in mask"),
        ("lane_never_comes", "__syncwarp"),
        ("different_operations", "threads wait for ever"),
        ("too_many_threads", "invalid configuration"),
    ],
)
def test_a_wrong_kernel_ends_with_a_reason(program: Path, kernel: str, message: str) -> None:
    status, text = output(program, kernel)
    assert status == 1 and message in text, text


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        ("race", "does not know of a"),
        ("shuffled", "a read does not know of a write by thread"),
        ("no_release", "does not know of a write by thread"),
        ("no_acquire", "does not know of a write by thread"),
        ("before_it_begins", "a write does not know of a write by the beginning of block"),
        ("before_it_is_written", "does not know of a"),
        (
            "after_it_ended",
            "and with it its shared memory, does not know of a read",
        ),
    ],
)
def test_what_is_not_ordered_is_a_race_in_every_order(
    program: Path, kernel: str, message: str
) -> None:
    for seed in range(5):
        status, text = output(program, kernel, seed)
        assert status == 1 and "race: " in text and message in text, text


def test_what_begins_early_waits_before_it_touches_memory(program: Path) -> None:
    status, text = output(program, "waits_not")
    assert status == 1 and "before the kernel before has ended (block" in text, text
    status, text = output(program, "waits")
    assert (status, [int(word) for word in text.split()]) == (0, [5] * 256)


def test_what_is_ordered_is_none(program: Path) -> None:
    wanted = {
        "no_race": [(i % 64 + 1) % 64 for i in range(4 * 64)],
        "warp_synced": [7] * 256,
        "fences": [3, 10, 10, 10, 10, 39] + [-1] * 250,
        "bytes": [0x01010101] * 64 + [-1] * 192,
    }
    for kernel, values in wanted.items():
        for seed in range(5):
            status, text = output(program, kernel, seed)
            assert (status, [int(word) for word in text.split()]) == (0, values), text


def test_an_order_comes_again_with_its_seed(program: Path) -> None:
    assert output(program, "who_came_when", 3) == output(program, "who_came_when", 3)
    assert len({output(program, "who_came_when", seed)[1] for seed in range(5)}) > 1


def test_warp_operations(program: Path) -> None:
    def value(lane: int) -> int:
        broadcast = lane // 16 * 16 + 7
        down = lane + 3 if lane + 3 < 32 else lane
        up = lane - 2 if lane % 8 >= 2 else lane
        alike = sum(1 << other for other in range(32) if other % 3 == lane % 3)
        total = broadcast + down + (lane ^ 1) + up + alike + 31
        return (total + 2**31) % 2**32 - 2**31

    _, text = output(program, "warp_operations")
    assert [int(word) for word in text.split()][:64] == [value(i % 32) for i in range(64)]


def test_a_block_reads_the_memory_of_its_cluster(program: Path) -> None:
    _, text = output(program, "of_the_cluster")
    wanted = [(block ^ 1) * 100 + i for block in range(4) for i in range(64)]
    assert [int(word) for word in text.split()] == wanted


def test_launches_of_two_threads_do_not_lower_one_another_s_limit(program: Path) -> None:
    """Shared memory is allowed to a kernel, not to a launch: whoever sets it, sets it for all."""
    assert output(program, "two_threads") == (0, "0")
