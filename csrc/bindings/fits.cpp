// The value checks of Python, answered by yes or no in one pass: where the answer is no, Python
// looks for the value to name.
#include "bindings/fits.h"

#include <algorithm>

#include "bindings/acceptance.h"
#include "bindings/library.h"

namespace sparrow::bindings {
namespace {

// `rows_of(b)`: how many rows of request b lie behind its prefix, none in an idle one.
template <typename RowsOf>
bool rows_fit(int64_t batch, const PrefixLens& prefix_lens, const Pages& pages,
              const RowsOf& rows_of) {
  std::vector<Span> spans(batch);
  for (int64_t layer = 0; layer < prefix_lens.layers; ++layer) {
    for (int64_t b = 0; b < batch; ++b) {
      const int64_t prefix_len = prefix_lens.of(layer)[b], rows = rows_of(b);
      if (rows >= 0 && prefix_len < 0) return false;
      spans[b] = rows < 0 ? Span{0, 0, 0} : Span{prefix_len, prefix_len + rows, prefix_len};
    }
    if (!spans_fit(pages, spans)) return false;
  }
  return true;
}

PrefixLens any_prefix_lens(const Arguments& arguments, const Tensor& prefix_lens, int64_t batch) {
  const int64_t layers = prefix_lens.dim() == 2 ? prefix_lens.size(0) : 1;
  return prefix_lens_of(arguments, prefix_lens, batch, layers, false);
}

bool tree_commit_fits(const Tensor& depth, const Tensor& first_child, const Tensor& next_sibling,
                      const Tensor& prefix_lens, int64_t num_blocks, int64_t block_size,
                      const OptionalTensor& block_table) {
  const Arguments arguments("tree_commit_fits", depth);
  arguments.check("depth", depth, ScalarType::Int, {kAny, kAny});
  const int64_t batch = depth.size(0);
  const TreeBatch tree =
      tree_batch(arguments, batch, depth.size(1), depth, depth, first_child, next_sibling);
  return trees_fit(tree, batch, any_prefix_lens(arguments, prefix_lens, batch),
                   pages_of(arguments, block_table, batch, num_blocks, block_size));
}

bool path_commit_fits(const Tensor& path, const Tensor& accept_length, const Tensor& prefix_lens,
                      int64_t num_blocks, int64_t block_size, const OptionalTensor& block_table,
                      int64_t num_nodes) {
  const Arguments arguments("path_commit_fits", path);
  arguments.check("path", path, ScalarType::Int, {kAny, kAny});
  const int64_t batch = path.size(0);
  arguments.check("accept_length", accept_length, ScalarType::Int, {batch});
  const CommittedPath committed{batch, path.size(1), rows<const int32_t>(path),
                                data<const int32_t>(accept_length)};
  return paths_fit(committed, any_prefix_lens(arguments, prefix_lens, batch),
                   pages_of(arguments, block_table, batch, num_blocks, block_size), num_nodes);
}

bool append_fits(const Tensor& prefix_lens, int64_t num_rows, int64_t num_blocks,
                 int64_t block_size, const OptionalTensor& block_table) {
  const Arguments arguments("append_fits", prefix_lens);
  arguments.check("prefix_lens", prefix_lens, ScalarType::Int, {kAny});
  const int64_t batch = prefix_lens.size(0);
  return rows_fit(batch, any_prefix_lens(arguments, prefix_lens, batch),
                  pages_of(arguments, block_table, batch, num_blocks, block_size),
                  [&](int64_t) { return num_rows; });
}

}  // namespace

bool trees_fit(const TreeBatch& tree, int64_t batch, const PrefixLens& prefix_lens,
               const Pages& pages) {
  return links_fit(tree, batch) && rows_fit(batch, prefix_lens, pages, [&](int64_t b) -> int64_t {
           const int32_t* depth = tree.depth[b];
           const int64_t nodes = std::count_if(depth, depth + tree.num_slots,
                                               [](int32_t level) { return level >= 0; });
           return nodes > 0 ? nodes : -1;
         });
}

bool paths_fit(const CommittedPath& path, const PrefixLens& prefix_lens, const Pages& pages,
               int64_t num_nodes) {
  return sparrow::paths_fit(path, num_nodes) &&
         rows_fit(path.batch, prefix_lens, pages, [&](int64_t b) -> int64_t {
           const int32_t length = path.accept_length[b];
           return length < 0 ? -1 : int64_t{path.path[b][length]} + 1;
         });
}

SPARROW_IMPLEMENT_ON_CPU(library) {
  library.impl("tree_commit_fits", TORCH_BOX(&tree_commit_fits));
  library.impl("path_commit_fits", TORCH_BOX(&path_commit_fits));
  library.impl("append_fits", TORCH_BOX(&append_fits));
}

}  // namespace sparrow::bindings
