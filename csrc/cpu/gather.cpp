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

// The moves of a batch: with lengths that layers share those of request b are
// [first[b], first[b + 1]), else those of layer l and request b [first[l * B + b], ...).
struct Moves {
  std::vector<Move> all;
  std::vector<size_t> first;
};

Moves list_moves(const CommittedPath& path, const PrefixLens& prefix_lens, const CacheRows& rows) {
  Moves moves;
  moves.first.reserve(prefix_lens.layers * path.batch + 1);
  for (int64_t layer = 0; layer < prefix_lens.layers; ++layer) {
    for (int64_t b = 0; b < path.batch; ++b) {
      moves.first.push_back(moves.all.size());
      const int64_t committed = num_committed(path.accept_length[b], path.max_path);
      const int32_t prefix_len = prefix_lens.of(layer)[b];
      for (int64_t k = 0; k < committed; ++k) {
        Move move;
        if (path_move(rows, b, prefix_len, path.path[b][k], k, &move)) moves.all.push_back(move);
      }
    }
  }
  moves.first.push_back(moves.all.size());
  return moves;
}

void move_rows(const CommittedPath& path, const PrefixLens& prefix_lens, const CacheBatch& cache) {
  const Moves moves = list_moves(path, prefix_lens, cache.rows);
  if (moves.all.empty()) return;
  const int64_t planes = static_cast<int64_t>(cache.tensors.size()) * cache.batch * cache.heads;
  const int64_t moves_a_plane =
      static_cast<int64_t>(moves.all.size()) / (cache.batch * prefix_lens.layers) + 1;
  for_each_part(planes, moves_a_plane * cache.row_bytes, [&](int64_t begin, int64_t end) {
    for (int64_t plane = begin; plane < end; ++plane) {
      const int64_t head = plane % cache.heads, b = plane / cache.heads % cache.batch;
      const int64_t tensor = plane / cache.heads / cache.batch;
      const int64_t own = tensor % prefix_lens.layers * cache.batch + b;
      char* rows = cache.tensors[tensor] + head * cache.head_stride;
      for (size_t m = moves.first[own]; m < moves.first[own + 1]; ++m) {
        // memmove: nothing here knows that a caller's strides keep rows apart. Asking for the rows
        // of later planes ahead gained nothing.
        std::memmove(rows + moves.all[m].to, rows + moves.all[m].from, cache.row_bytes);
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
    for (int64_t layer = 0; layer < call.prefix_lens.layers; ++layer) {
      int32_t& prefix_len = call.prefix_lens.of(layer)[b];
      prefix_len = advanced_prefix(prefix_len, committed, call.cache.rows.pages.capacity());
    }
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
