// Gathering and commit.
#include "cpu/gather.h"

#include <limits>
#include <string>
#include <tuple>

#include "bindings/acceptance.h"
#include "bindings/device.h"
#include "bindings/library.h"
#include "cuda/gather.h"

namespace sparrow::bindings {
namespace {

void check_like_first(const Arguments& arguments, const char* argument, const Tensor& tensor,
                      const Tensor& first) {
  arguments.check(argument, tensor, first.scalar_type(), first.sizes());
}

// Keys and values of every layer. No tensors at all: a cache with nothing to move.
CacheBatch cache_batch(const Arguments& arguments, const TensorList& keys, const TensorList& values,
                       int64_t batch) {
  if (keys.size() != values.size()) {
    arguments.refuse("values", "as many tensors as keys", std::to_string(values.size()));
  }
  CacheBatch cache;
  cache.batch = batch;
  cache.capacity = std::numeric_limits<int32_t>::max();
  if (keys.empty()) return cache;
  const Tensor& first = keys[0];
  arguments.check_layout("keys", first, {batch, kAny, kAny, kAny});
  const int64_t element = static_cast<int64_t>(first.element_size());
  cache.heads = first.size(1);
  cache.capacity = first.size(2);
  cache.batch_stride = first.stride(0) * element;
  cache.head_stride = first.stride(1) * element;
  cache.slot_stride = first.stride(2) * element;
  cache.row_bytes = first.size(3) * element;
  cache.tensors.reserve(2 * keys.size());
  const Shape sizes = first.sizes(), strides = first.strides();
  const auto add = [&](const TensorList& tensors, const char* argument) {
    for (const Tensor& tensor : tensors) {
      check_like_first(arguments, argument, tensor, first);
      const Shape own = tensor.strides();
      for (size_t d = 0; d < 3; ++d) {
        if (sizes[d] > 1 && own[d] != strides[d]) {
          arguments.refuse(argument,
                           "of the strides " + text(strides) + " of the first layer's keys",
                           text(own));
        }
      }
      cache.tensors.push_back(data<char>(tensor));
    }
  };
  add(keys, "keys");
  add(values, "values");
  return cache;
}

HiddenStates hidden_states(const Arguments& arguments, const TensorList& states, int64_t batch) {
  HiddenStates hidden{};
  if (states.empty()) return hidden;
  const Tensor& first = states[0];
  arguments.check_layout("states", first, {batch, kAny, kAny});
  const int64_t element = static_cast<int64_t>(first.element_size());
  hidden.layers.reserve(states.size());
  for (const Tensor& tensor : states) {
    check_like_first(arguments, "states", tensor, first);
    hidden.layers.push_back(
        {data<const char>(tensor), tensor.stride(0) * element, tensor.stride(1) * element});
  }
  hidden.num_rows = first.size(1);
  hidden.row_bytes = first.size(2) * element;
  return hidden;
}

int64_t hidden_width(const TensorList& states) {
  return states.empty() ? 0 : static_cast<int64_t>(states.size()) * states[0].size(2);
}

ScalarType hidden_dtype(const TensorList& states) {
  return states.empty() ? ScalarType::Float : states[0].scalar_type();
}

HiddenOut hidden_out(const Tensor& out) {
  const int64_t element = static_cast<int64_t>(out.element_size());
  return {data<char>(out), out.stride(0) * element, out.stride(1) * element};
}

CommittedPath committed_path(const Arguments& arguments, const Tensor& path,
                             const Tensor& accept_length) {
  arguments.check("path", path, ScalarType::Int, {kAny, kAny});
  arguments.check("accept_length", accept_length, ScalarType::Int, {path.size(0)});
  return {path.size(0), path.size(1), rows<const int32_t>(path),
          data<const int32_t>(accept_length)};
}

void gather_hidden_out(const TensorList& states, const Tensor& index, const Tensor& out) {
  const Arguments arguments("gather_hidden", index);
  arguments.check("index", index, ScalarType::Int, {kAny, kAny});
  const int64_t batch = index.size(0), num_gathered = index.size(1);
  const HiddenStates hidden = hidden_states(arguments, states, batch);
  arguments.check("out", out, hidden_dtype(states), {batch, num_gathered, hidden_width(states)});
  run(index, SPARROW_DRIVERS(gather_hidden),
      GatherHidden{.batch = batch,
                   .num_gathered = num_gathered,
                   .index = rows<const int32_t>(index),
                   .states = hidden,
                   .out = hidden_out(out)});
}

Tensor gather_hidden(const TensorList& states, const Tensor& index) {
  const Arguments arguments("gather_hidden", index);
  arguments.check("index", index, ScalarType::Int, {kAny, kAny});
  hidden_states(arguments, states, index.size(0));  // its errors come before any allocation
  const Tensor out =
      empty(index, hidden_dtype(states), {index.size(0), index.size(1), hidden_width(states)});
  gather_hidden_out(states, index, out);
  return out;
}

void compact_cache_(const TensorList& keys, const TensorList& values, const Tensor& path,
                    const Tensor& accept_length, const Tensor& prefix_lens) {
  const Arguments arguments("compact_cache_", path);
  const CommittedPath committed = committed_path(arguments, path, accept_length);
  arguments.check("prefix_lens", prefix_lens, ScalarType::Int, {committed.batch});
  run(path, SPARROW_DRIVERS(compact_cache),
      CompactCache{.path = committed,
                   .prefix_lens = data<const int32_t>(prefix_lens),
                   .cache = cache_batch(arguments, keys, values, committed.batch)});
}

// What is committed: the caches, the hidden states and the lengths of `batch` requests.
struct Commit {
  CacheBatch cache;
  HiddenStates states;
  Tensor hidden;

  Commit(const Arguments& arguments, const TensorList& keys, const TensorList& values,
         const TensorList& layers, const Tensor& prefix_lens, int64_t batch, int64_t max_path)
      : cache(cache_batch(arguments, keys, values, batch)),
        states(hidden_states(arguments, layers, batch)),
        hidden(empty(prefix_lens, hidden_dtype(layers), {batch, max_path, hidden_width(layers)})) {
    arguments.check("prefix_lens", prefix_lens, ScalarType::Int, {batch});
  }
};

Tensor commit_path_(const Tensor& path, const Tensor& accept_length, const TensorList& keys,
                    const TensorList& values, const TensorList& states, const Tensor& prefix_lens) {
  const Arguments arguments("commit_path_", path);
  const CommittedPath committed = committed_path(arguments, path, accept_length);
  const Commit commit(arguments, keys, values, states, prefix_lens, committed.batch,
                      committed.max_path);
  run(path, SPARROW_DRIVERS(commit_path),
      CommitPath{.path = committed,
                 .prefix_lens = data<int32_t>(prefix_lens),
                 .cache = commit.cache,
                 .states = commit.states,
                 .out = hidden_out(commit.hidden)});
  return commit.hidden;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> commit_tree_(
    const Tensor& tokens, const Tensor& parent, const Tensor& depth, const Tensor& ancestors,
    const Tensor& first_child, const Tensor& next_sibling, const Tensor& target_tokens,
    const TensorList& keys, const TensorList& values, const TensorList& states,
    const Tensor& prefix_lens, int64_t max_path) {
  const Arguments arguments("commit_tree_", tokens);
  const auto [accepted, accept] = accept_tree_call(arguments, tokens, parent, depth, first_child,
                                                   next_sibling, target_tokens, max_path);
  const Commit commit(arguments, keys, values, states, prefix_lens, accept.batch, max_path);
  run(tokens, SPARROW_DRIVERS(commit_tree),
      CommitTree{.accept = accept,
                 .prefix_lens = data<int32_t>(prefix_lens),
                 .cache = commit.cache,
                 .states = commit.states,
                 .out = hidden_out(commit.hidden)});
  return {accepted.path, accepted.accept_length, accepted.emitted, commit.hidden};
}

}  // namespace

SPARROW_IMPLEMENT(gather, library) {
  library.impl("gather_hidden", TORCH_BOX(&gather_hidden));
  library.impl("gather_hidden_out", TORCH_BOX(&gather_hidden_out));
  library.impl("compact_cache_", TORCH_BOX(&compact_cache_));
  library.impl("commit_path_", TORCH_BOX(&commit_path_));
  library.impl("commit_tree_", TORCH_BOX(&commit_tree_));
}

}  // namespace sparrow::bindings
