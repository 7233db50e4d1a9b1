"""Kernels with a line taken out: the emulator must see it. Some of mutants.py, which has them all,
as programs without torch, since these compile in seconds."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from emulation import CSRC, compile_program
from mutants import MUTANTS

COMMIT = r"""
#include <cstdio>
#include <exception>
#include "cuda/accept_tree.cu"
#include "cuda/commit.cu"
#include "cuda/counters.cu"

// Two requests, whose caches several blocks move, with lengths of each of two layers.
int main() {
  using namespace sparrow;
  constexpr int kBatch = 2, kHeads = 4, kCapacity = 12, kDim = 256, kPath = 3;
  std::vector<float> keys(kBatch * kHeads * kCapacity * kDim, 1.0f), values = keys;
  const int32_t path[] = {0, 2, -1, 0, 1, 3}, length[] = {1, 2};
  static int32_t lens[] = {2, 3, 1, 0};  // the emulator takes main's stack for parameters
  CommitPath call{};
  call.path = {kBatch, kPath, {path, kPath}, length};
  call.prefix_lens = {lens, 2, kBatch};
  call.cache.batch = kBatch;
  call.cache.heads = kHeads;
  call.cache.rows.pages.num_blocks = kBatch;
  call.cache.rows.pages.block_size = kCapacity;
  call.cache.row_bytes = kDim * 4;
  call.cache.rows.slot_stride = kDim * 4;
  call.cache.head_stride = kCapacity * kDim * 4;
  call.cache.rows.block_stride = kHeads * kCapacity * kDim * 4;
  std::vector<float> others[2] = {keys, keys};  // of the second layer
  char* const tensors[] = {
      reinterpret_cast<char*>(keys.data()), reinterpret_cast<char*>(others[0].data()),
      reinterpret_cast<char*>(values.data()), reinterpret_cast<char*>(others[1].data())};
  call.cache.tensors = tensors;
  try {
    for (int i = 0; i < 2; ++i) cuda::commit_path(call, nullptr);
  } catch (const std::exception& error) {
    std::printf("%s", error.what());
    return 1;
  }
  std::printf("%d %d %d %d", lens[0], lens[1], lens[2], lens[3]);
}
"""


def said(folder: Path, mutant: str = "") -> str:
    csrc = folder / "csrc"
    shutil.copytree(CSRC, csrc)
    if mutant:
        change = MUTANTS[mutant]
        source = (csrc / change.file).read_text()
        assert source.count(change.old) == 1
        (csrc / change.file).write_text(source.replace(change.old, change.new))
    program = compile_program(folder, COMMIT, csrc)
    return subprocess.run([program], capture_output=True, text=True, check=False).stdout


def test_every_mutant_finds_its_line_once() -> None:
    for name, mutant in MUTANTS.items():
        assert (CSRC / mutant.file).read_text().count(mutant.old) == 1, name


@pytest.mark.slow
def test_a_commit_as_it_is(tmp_path: Path) -> None:
    assert said(tmp_path) == "6 9 5 6"


@pytest.mark.slow
@pytest.mark.parametrize(
    "mutant", ["commit: no release", "commit: no acquire", "commit: the other lanes do not wait"]
)
def test_a_commit_without_one_of_its_fences(tmp_path: Path, mutant: str) -> None:
    assert "race: a write does not know of a read" in said(tmp_path, mutant)
