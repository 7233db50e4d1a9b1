// Gathering and commit on CPU tensors.
#include "cpu/gather.h"

#include <torch/csrc/stable/library.h>

#include <limits>
#include <string>
#include <tuple>

#include "bindings/acceptance.h"

namespace sparrow::bindings {
namespace {

void check_like_first(const Arguments& arguments, const char* argument, const Tensor& tensor,
                      const Tensor& first) {
  arguments.check(argument, tensor, first.scalar_type(), first.sizes());
}

// Keys and values of every layer. No tensors at all: a cache with nothing to move.
cpu::CacheBatch cache_batch(const Arguments& arguments, const TensorList& keys,
                            const TensorList& values, int64_t batch) {
  if (keys.size() != values.size()) {
    arguments.refuse("values", "as many tensors as keys", std::to_string(values.size()));
  }
  cpu::CacheBatch cache;
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

cpu::HiddenStates hidden_states(const Arguments& arguments, const TensorList& states,
                                int64_t batch) {
  cpu::HiddenStates hidden{};
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

cpu::HiddenOut hidden_out(const Tensor& out) {
  const int64_t element = static_cast<int64_t>(out.element_size());
  return {data<char>(out), out.stride(0) * element, out.stride(1) * element};
}

// Compacts, gathers and advances: what follows once the path is known.
Tensor commit(const Arguments& arguments, const cpu::CommittedPath& path, const TensorList& keys,
              const TensorList& values, const TensorList& states, const Tensor& prefix_lens) {
  arguments.check("prefix_lens", prefix_lens, ScalarType::Int, {path.batch});
  const cpu::CacheBatch cache = cache_batch(arguments, keys, values, path.batch);
  const cpu::HiddenStates hidden = hidden_states(arguments, states, path.batch);
  const Tensor out =
      empty(prefix_lens, hidden_dtype(states), {path.batch, path.max_path, hidden_width(states)});
  cpu::compact_cache(path, data<const int32_t>(prefix_lens), cache);
  cpu::gather_path(path, hidden, hidden_out(out));
  cpu::advance_prefix(path, cache.capacity, data<int32_t>(prefix_lens));
  return out;
}

cpu::CommittedPath committed_path(const Arguments& arguments, const Tensor& path,
                                  const Tensor& accept_length) {
  arguments.check("path", path, ScalarType::Int, {kAny, kAny});
  arguments.check("accept_length", accept_length, ScalarType::Int, {path.size(0)});
  return {path.size(0), path.size(1), rows<const int32_t>(path),
          data<const int32_t>(accept_length)};
}

void gather_hidden_out(const TensorList& states, const Tensor& index, const Tensor& out) {
  const Arguments arguments("gather_hidden", index);
  arguments.check("index", index, ScalarType::Int, {kAny, kAny});
  const cpu::HiddenStates hidden = hidden_states(arguments, states, index.size(0));
  arguments.check("out", out, hidden_dtype(states),
                  {index.size(0), index.size(1), hidden_width(states)});
  cpu::gather_hidden(index.size(0), index.size(1), rows<const int32_t>(index), hidden,
                     hidden_out(out));
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
  const cpu::CommittedPath committed = committed_path(arguments, path, accept_length);
  arguments.check("prefix_lens", prefix_lens, ScalarType::Int, {committed.batch});
  const cpu::CacheBatch cache = cache_batch(arguments, keys, values, committed.batch);
  cpu::compact_cache(committed, data<const int32_t>(prefix_lens), cache);
}

Tensor commit_path_(const Tensor& path, const Tensor& accept_length, const TensorList& keys,
                    const TensorList& values, const TensorList& states, const Tensor& prefix_lens) {
  const Arguments arguments("commit_path_", path);
  return commit(arguments, committed_path(arguments, path, accept_length), keys, values, states,
                prefix_lens);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> commit_tree_(
    const Tensor& tokens, const Tensor& parent, const Tensor& depth, const Tensor& ancestors,
    const Tensor& first_child, const Tensor& next_sibling, const Tensor& target_tokens,
    const TensorList& keys, const TensorList& values, const TensorList& states,
    const Tensor& prefix_lens, int64_t max_path) {
  const Arguments arguments("commit_tree_", tokens);
  const AcceptanceTensors accepted =
      run_accept_tree(arguments, tokens, depth, first_child, next_sibling, target_tokens, max_path);
  const cpu::CommittedPath path = committed_path(arguments, accepted.path, accepted.accept_length);
  const Tensor hidden = commit(arguments, path, keys, values, states, prefix_lens);
  return {accepted.path, accepted.accept_length, accepted.emitted, hidden};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sparrow_native, CPU, library) {
  library.impl("gather_hidden", TORCH_BOX(&gather_hidden));
  library.impl("gather_hidden_out", TORCH_BOX(&gather_hidden_out));
  library.impl("compact_cache_", TORCH_BOX(&compact_cache_));
  library.impl("commit_path_", TORCH_BOX(&commit_path_));
  library.impl("commit_tree_", TORCH_BOX(&commit_tree_));
}

}  // namespace sparrow::bindings
