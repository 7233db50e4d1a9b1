// Whether the values of a call on a CPU are such as no checked call refuses.
#pragma once

#include <vector>

#include "bindings/caches.h"
#include "kernels/gather/fits.h"

namespace sparrow::bindings {

// Trees with all of their nodes behind the prefix of every layer.
bool trees_fit(const TreeBatch& tree, int64_t batch, const PrefixLens& prefix_lens,
               const Pages& pages);

// Paths with all of their nodes there; `num_nodes` as in sparrow::paths_fit.
bool paths_fit(const CommittedPath& path, const PrefixLens& prefix_lens, const Pages& pages,
               int64_t num_nodes);

}  // namespace sparrow::bindings
