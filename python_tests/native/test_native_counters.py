"""Counters across blocks: whose they are, and that graphs give theirs back."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from emulation import compile_program

PROGRAM = r"""
#include <cstdio>
#include "cuda/counters.cu"

using namespace sparrow::cuda;

void destroy(CUstream_st& graph) {
  for (const auto& [destroyed, object] : graph.user_objects) destroyed(object);
  graph.user_objects.clear();
}

int main() {
  CUstream_st one, other;  // two graphs, each the stream that is captured into it
  uint32_t* const of_stream = counters(5, nullptr);
  uint32_t* const first = counters(5, &one);
  uint32_t* const second = counters(5, &one);  // of another call in the same graph
  uint32_t* const third = counters(5, &other);
  std::printf("%d", of_stream == counters(5, nullptr));
  std::printf(" %d", of_stream != first && first != second && second != third && first != third);
  destroy(one);
  const bool is_larger_new = counters(6, &other) != first;
  uint32_t* const again = counters(4, &other);
  std::printf(" %d %d", is_larger_new, again == first || again == second);
  // Captured again and again: a page of counters would last for fifty rounds.
  destroy(other);
  uint32_t* lowest = again;
  uint32_t* highest = again;
  for (int i = 0; i < 1000; ++i) {
    CUstream_st graph;
    uint32_t* const own = counters(5000, &graph);
    if (i == 0) lowest = highest = own;
    lowest = own < lowest ? own : lowest;
    highest = own > highest ? own : highest;
    destroy(graph);
  }
  std::printf(" %d", lowest == highest);
}
"""


@pytest.mark.slow
def test_a_graph_has_its_own_and_gives_them_back(tmp_path: Path) -> None:
    program = compile_program(tmp_path, PROGRAM)
    done = subprocess.run([program], capture_output=True, text=True, check=True)
    assert done.stdout == "1 1 1 1 1"
