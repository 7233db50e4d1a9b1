// Gathering and commit.
#include "cpu/gather.h"

#include <algorithm>
#include <array>
#include <stdexcept>
#include <string>
#include <tuple>

#include "bindings/acceptance.h"
#include "bindings/caches.h"
#include "bindings/device.h"
#include "bindings/fits.h"
#include "bindings/library.h"
#include "cuda/gather.h"

namespace sparrow::bindings {
namespace {

HiddenStates hidden_states(const Arguments& arguments, const TensorList& states, int64_t batch) {
  HiddenStates hidden{};
  if (states.empty()) return hidden;
  const Tensor& first = states[0];
  arguments.check_layout("states", first, {batch, kAny, kAny});
  const int64_t element = static_cast<int64_t>(first.element_size());
  hidden.layers.reserve(states.size());
  for (const Tensor& tensor : states) {
    arguments.check("states", tensor, first.scalar_type(), first.sizes());
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

// What the caller has asked to be checked: Python then looks for the value to name.
void refuse_values(bool fit) {
  if (!fit) throw std::invalid_argument("a value is refused");
}

void compact(const Arguments& arguments, const Caches& caches, const Tensor& path,
             const Tensor& accept_length, const Tensor& prefix_lens,
             const OptionalTensor& block_table, bool checked) {
  const CommittedPath committed = committed_path(arguments, path, accept_length);
  const CacheBatch cache = caches.for_requests(arguments, committed.batch, block_table);
  const PrefixLens lens =
      prefix_lens_of(arguments, prefix_lens, committed.batch, caches.num_layers, false);
  if (checked) refuse_values(paths_fit(committed, lens, cache.rows.pages, -1));
  run(path, SPARROW_DRIVERS(compact_cache),
      CompactCache{.path = committed, .prefix_lens = lens, .cache = cache});
}

void compact_cache_(const TensorList& keys, const TensorList& values, const Tensor& path,
                    const Tensor& accept_length, const Tensor& prefix_lens,
                    const OptionalTensor& block_table) {
  const Arguments arguments("compact_cache_", path);
  compact(arguments, Caches(arguments, keys, values), path, accept_length, prefix_lens, block_table,
          false);
}

void compact_bound_(const Tensor& path, const Tensor& accept_length, int64_t caches,
                    const Tensor& prefix_lens, const OptionalTensor& block_table, bool checked) {
  const Arguments arguments("compact_cache_", path);
  const UsedCaches used(arguments, caches);
  refuse_values(!checked || !used.have_moved());
  compact(arguments, used.now(), path, accept_length, prefix_lens, block_table, checked);
}

// What the acceptance writes to has no strides of its own.
void check_whole(const Arguments& arguments, const char* argument, const Tensor& tensor,
                 ScalarType dtype, Shape shape) {
  arguments.check(argument, tensor, dtype, shape);
  if (!tensor.is_contiguous()) {
    arguments.refuse(argument, "contiguous", "strides " + text(tensor.strides()));
  }
}

// What is committed: the caches, the hidden states and the lengths of `batch` requests.
struct Commit {
  CacheBatch cache;
  PrefixLens prefix_lens;
  HiddenStates states;

  Commit(const Arguments& arguments, const Caches& caches, const TensorList& layers,
         const Tensor& lens, const OptionalTensor& block_table, int64_t batch)
      : cache(caches.for_requests(arguments, batch, block_table)),
        prefix_lens(prefix_lens_of(arguments, lens, batch, caches.num_layers, true)),
        states(hidden_states(arguments, layers, batch)) {}
};

Tensor hidden_rows(const Tensor& like, const TensorList& layers, int64_t batch, int64_t max_path) {
  return empty(like, hidden_dtype(layers), {batch, max_path, hidden_width(layers)});
}

Tensor commit_given(const Arguments& arguments, const Caches& caches, const Tensor& path,
                    const Tensor& accept_length, const TensorList& states,
                    const Tensor& prefix_lens, const OptionalTensor& block_table, bool checked) {
  const CommittedPath committed = committed_path(arguments, path, accept_length);
  const Commit commit(arguments, caches, states, prefix_lens, block_table, committed.batch);
  if (checked) {
    refuse_values(paths_fit(committed, commit.prefix_lens, commit.cache.rows.pages,
                            states.empty() ? -1 : commit.states.num_rows));
  }
  const Tensor hidden = hidden_rows(path, states, committed.batch, committed.max_path);
  run(path, SPARROW_DRIVERS(commit_path),
      CommitPath{.path = committed,
                 .prefix_lens = commit.prefix_lens,
                 .cache = commit.cache,
                 .states = commit.states,
                 .out = hidden_out(hidden)});
  return hidden;
}

Tensor commit_path_(const Tensor& path, const Tensor& accept_length, const TensorList& keys,
                    const TensorList& values, const TensorList& states, const Tensor& prefix_lens,
                    const OptionalTensor& block_table) {
  const Arguments arguments("commit_path_", path);
  return commit_given(arguments, Caches(arguments, keys, values), path, accept_length, states,
                      prefix_lens, block_table, false);
}

Tensor commit_path_bound_(const Tensor& path, const Tensor& accept_length, int64_t caches,
                          const TensorList& states, const Tensor& prefix_lens,
                          const OptionalTensor& block_table, bool checked) {
  const Arguments arguments("commit_path_", path);
  const UsedCaches used(arguments, caches);
  refuse_values(!checked || !used.have_moved());
  return commit_given(arguments, used.now(), path, accept_length, states, prefix_lens, block_table,
                      checked);
}

// The tensors of one commit_tree_, but for the caches.
struct TreeTensors {
  const Tensor &tokens, &parent, &depth, &first_child, &next_sibling, &target_tokens;
  const TensorList& states;
  const Tensor& prefix_lens;
  const OptionalTensor& block_table;
};

using Committed = std::tuple<Tensor, Tensor, Tensor, Tensor>;

// Whether what is written as results is certainly neither read nor written as anything else.
bool are_apart(const TreeTensors& t, const Caches& caches, const Committed& out) {
  const auto& [path, accept_length, emitted, hidden] = out;
  if (!strides_nest(hidden)) return false;
  const std::array<const Tensor*, 4> results{&path, &accept_length, &emitted, &hidden};
  for (size_t k = 0; k < results.size(); ++k) {
    const auto shares = [&](const Tensor& other) { return may_overlap(*results[k], other); };
    if (shares(t.tokens) || shares(t.depth) || shares(t.first_child) || shares(t.next_sibling) ||
        shares(t.target_tokens) || shares(t.prefix_lens) ||
        (t.block_table && shares(*t.block_table)) || caches.may_overlap(*results[k]) ||
        std::any_of(t.states.begin(), t.states.end(), shares) ||
        std::any_of(results.begin() + k + 1, results.end(),
                    [&](const Tensor* other) { return shares(*other); })) {
      return false;
    }
  }
  return true;
}

// Into `out` if there is one, else into tensors of its own.
Committed commit_walked(const Arguments& arguments, const Caches& caches, const TreeTensors& t,
                        int64_t max_path, bool checked, const Committed* out = nullptr) {
  AcceptTree accept = read_accept_tree(arguments, t.tokens, t.parent, t.depth, t.first_child,
                                       t.next_sibling, t.target_tokens, max_path);
  const int64_t batch = accept.batch;
  const Commit commit(arguments, caches, t.states, t.prefix_lens, t.block_table, batch);
  if (!t.states.empty()) {
    arguments.check_layout("states", t.states[0], {batch, t.tokens.size(1), kAny});
  }
  if (out != nullptr) {
    const auto& [path, accept_length, emitted, hidden] = *out;
    check_whole(arguments, "out.path", path, ScalarType::Int, {batch, max_path});
    check_whole(arguments, "out.accept_length", accept_length, ScalarType::Int, {batch});
    check_whole(arguments, "out.tokens", emitted, ScalarType::Long, {batch, max_path});
    arguments.check("out hidden", hidden, hidden_dtype(t.states),
                    {batch, max_path, hidden_width(t.states)});
  }
  if (checked) {
    refuse_values(trees_fit(accept.tree, batch, commit.prefix_lens, commit.cache.rows.pages));
    refuse_values(out == nullptr || are_apart(t, caches, *out));
  }
  const auto made = [&]() -> Committed {
    const AcceptanceTensors accepted(t.tokens, batch, max_path);
    return {accepted.path, accepted.accept_length, accepted.emitted,
            hidden_rows(t.tokens, t.states, batch, max_path)};
  };
  const Committed results = out != nullptr ? *out : made();
  const auto& [path, accept_length, emitted, hidden] = results;
  accept.out = {data<int32_t>(path), data<int32_t>(accept_length), data<int64_t>(emitted),
                max_path};
  run(t.tokens, SPARROW_DRIVERS(commit_tree),
      CommitTree{.accept = accept,
                 .prefix_lens = commit.prefix_lens,
                 .cache = commit.cache,
                 .states = commit.states,
                 .out = hidden_out(hidden)});
  return results;
}

Committed commit_tree_(const Tensor& tokens, const Tensor& parent, const Tensor& depth,
                       const Tensor& ancestors, const Tensor& first_child,
                       const Tensor& next_sibling, const Tensor& target_tokens,
                       const TensorList& keys, const TensorList& values, const TensorList& states,
                       const Tensor& prefix_lens, int64_t max_path,
                       const OptionalTensor& block_table) {
  const Arguments arguments("commit_tree_", tokens);
  return commit_walked(arguments, Caches(arguments, keys, values),
                       {tokens, parent, depth, first_child, next_sibling, target_tokens, states,
                        prefix_lens, block_table},
                       max_path, false);
}

// `ancestors` is read by nobody, and not handed over.
Committed commit_tree_bound_(const Tensor& tokens, const Tensor& parent, const Tensor& depth,
                             const Tensor& first_child, const Tensor& next_sibling,
                             const Tensor& target_tokens, int64_t caches, const TensorList& states,
                             const Tensor& prefix_lens, int64_t max_path,
                             const OptionalTensor& block_table, bool checked) {
  const Arguments arguments("commit_tree_", tokens);
  const UsedCaches used(arguments, caches);
  refuse_values(!checked || !used.have_moved());
  return commit_walked(arguments, used.now(),
                       {tokens, parent, depth, first_child, next_sibling, target_tokens, states,
                        prefix_lens, block_table},
                       max_path, checked);
}

void commit_tree_bound_out_(const Tensor& tokens, const Tensor& parent, const Tensor& depth,
                            const Tensor& first_child, const Tensor& next_sibling,
                            const Tensor& target_tokens, int64_t caches, const TensorList& states,
                            const Tensor& prefix_lens, int64_t max_path,
                            const OptionalTensor& block_table, bool checked, const Tensor& path,
                            const Tensor& accept_length, const Tensor& emitted,
                            const Tensor& hidden) {
  const Arguments arguments("commit_tree_", tokens);
  const UsedCaches used(arguments, caches);
  refuse_values(!checked || !used.have_moved());
  const Committed out{path, accept_length, emitted, hidden};
  commit_walked(arguments, used.now(),
                {tokens, parent, depth, first_child, next_sibling, target_tokens, states,
                 prefix_lens, block_table},
                max_path, checked, &out);
}

}  // namespace

SPARROW_IMPLEMENT(gather, library) {
  library.impl("gather_hidden", TORCH_BOX(&gather_hidden));
  library.impl("gather_hidden_out", TORCH_BOX(&gather_hidden_out));
  library.impl("compact_cache_", TORCH_BOX(&compact_cache_));
  library.impl("commit_path_", TORCH_BOX(&commit_path_));
  library.impl("commit_tree_", TORCH_BOX(&commit_tree_));
  library.impl("compact_bound_", TORCH_BOX(&compact_bound_));
  library.impl("commit_path_bound_", TORCH_BOX(&commit_path_bound_));
  library.impl("commit_tree_bound_", TORCH_BOX(&commit_tree_bound_));
  library.impl("commit_tree_bound_out_", TORCH_BOX(&commit_tree_bound_out_));
}

}  // namespace sparrow::bindings
