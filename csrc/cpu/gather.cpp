#include "cpu/gather.h"

#include <cstring>

#include "cpu/accept.h"
#include "cpu/parallel.h"
#include "kernels/gather/commit.h"

namespace sparrow::cpu {
namespace {

void copy_hidden_row(const HiddenStates& states, int64_t b, int64_t row, char* to) {
  for (const auto& layer : states.layers) {
    if (row < 0 || row >= states.num_rows) {
      std::memset(to, 0, states.row_bytes);
    } else {
      const char* from = layer.data + b * layer.batch_stride + row * layer.row_stride;
      std::memcpy(to, from, states.row_bytes);
    }
    to += states.row_bytes;
  }
}

// The moves of a batch: those of request b are [first[b], first[b + 1]).
struct Moves {
  std::vector<Move> all;
  std::vector<size_t> first;
};

Moves list_moves(const CommittedPath& path, const int32_t* prefix_lens, int64_t capacity) {
  Moves moves;
  moves.first.reserve(path.batch + 1);
  for (int64_t b = 0; b < path.batch; ++b) {
    moves.first.push_back(moves.all.size());
    const int64_t committed = num_committed(path.accept_length[b], path.max_path);
    for (int64_t k = 0; k < committed; ++k) {
      Move move;
      if (path_move(prefix_lens[b], path.path[b][k], k, capacity, &move)) moves.all.push_back(move);
    }
  }
  moves.first.push_back(moves.all.size());
  return moves;
}

void move_rows(const CommittedPath& path, const int32_t* prefix_lens, const CacheBatch& cache) {
  const Moves moves = list_moves(path, prefix_lens, cache.capacity);
  if (moves.all.empty()) return;
  const int64_t planes = static_cast<int64_t>(cache.tensors.size()) * cache.batch * cache.heads;
  const int64_t moves_a_plane = static_cast<int64_t>(moves.all.size()) / cache.batch + 1;
  for_each_part(planes, moves_a_plane * cache.row_bytes, [&](int64_t begin, int64_t end) {
    for (int64_t plane = begin; plane < end; ++plane) {
      const int64_t head = plane % cache.heads, b = plane / cache.heads % cache.batch;
      char* rows = cache.tensors[plane / cache.heads / cache.batch] + b * cache.batch_stride +
                   head * cache.head_stride;
      for (size_t m = moves.first[b]; m < moves.first[b + 1]; ++m) {
        // memmove: nothing here knows that a caller's strides keep rows apart.
        std::memmove(rows + moves.all[m].to * cache.slot_stride,
                     rows + moves.all[m].from * cache.slot_stride, cache.row_bytes);
      }
    }
  });
}

}  // namespace

void gather_hidden(const GatherHidden& call) {
  const HiddenStates& states = call.states;
  const int64_t bytes = states.row_bytes * static_cast<int64_t>(states.layers.size());
  for_each_part(call.batch * call.num_gathered, bytes, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t b = i / call.num_gathered, a = i % call.num_gathered;
      char* to = call.out.data + b * call.out.batch_stride + a * call.out.row_stride;
      copy_hidden_row(states, b, call.index[b][a], to);
    }
  });
}

void compact_cache(const CompactCache& call) { move_rows(call.path, call.prefix_lens, call.cache); }

void commit_path(const CommitPath& call) {
  const CommittedPath& path = call.path;
  move_rows(path, call.prefix_lens, call.cache);
  for (int64_t b = 0; b < path.batch; ++b) {
    const int64_t committed = num_committed(path.accept_length[b], path.max_path);
    for (int64_t k = 0; k < path.max_path; ++k) {
      char* to = call.out.data + b * call.out.batch_stride + k * call.out.row_stride;
      copy_hidden_row(call.states, b, k < committed ? path.path[b][k] : -1, to);
    }
    int32_t& prefix_len = call.prefix_lens[b];
    prefix_len = advanced_prefix(prefix_len, committed, call.cache.capacity);
  }
}

void commit_tree(const CommitTree& call) {
  accept_tree(call.accept);
  const AcceptanceBatch& accepted = call.accept.out;
  commit_path({.path = {.batch = call.accept.batch,
                        .max_path = accepted.max_path,
                        .path = {accepted.path, accepted.max_path},
                        .accept_length = accepted.accept_length},
               .prefix_lens = call.prefix_lens,
               .cache = call.cache,
               .states = call.states,
               .out = call.out});
}

}  // namespace sparrow::cpu
