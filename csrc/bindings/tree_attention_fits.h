// The value checks of tree attention, answered by yes or no in one pass: where the answer is no,
// Python looks for the value to name.
#pragma once

#include "kernels/attention/tree_call.h"
#include "kernels/pages.h"

namespace sparrow::bindings {

// What a call asks to see; `rank` [B, N + 1] belongs to anchors, if there are any.
struct Asked {
  int64_t batch, num_rows;
  const Visibility& visibility;
  Rows<const int32_t> rank;
  Pages pages;
};

// Lengths lie in the cache, starts before them, bits and anchors name slots that exist, and the
// table pages that do.
bool tree_attention_fits(const Asked& call);

}  // namespace sparrow::bindings
