// The calls of tree attention and of joining its parts, as their CPU drivers take them.
#pragma once

#include <vector>

#include "kernels/attention/call.h"
#include "kernels/element.h"

namespace sparrow {

// What decides which slots the rows of each request see. [B, T] are dense.
struct Visibility {
  const int64_t* ancestors;  // [B, T, W]
  int64_t words, ancestors_batch_stride, ancestors_row_stride;
  const int32_t* prefix_lens;    // [B]
  const int32_t* prefix_starts;  // [B], or null: 0
  // Without anchors all of these are null, and every committed slot is seen.
  Rows<const int32_t> anchor_slots;  // [B, A], ascending
  int64_t max_anchors;
  const int32_t* anchor_count;  // [B]
  Rows<const int32_t> depth;    // [B, T]
  int64_t window;
};

// Slot s of request b is row s % page_size of page rows[b][s / page_size]. Pages out of range are
// clamped, so there is one at least.
struct BlockTable {
  Rows<const int32_t> rows;  // [B, pages]; data is null where each request has a cache of its own
  int64_t num_pages, page_size;
};

// [B, Hkv, N], in one of the two dtypes; both data are null where there is none.
template <typename Element>
struct KeyBias {
  HeadRows<const float> floats;
  HeadRows<const Element> elements;
};

// Rows of `Element` to caches of `Stored`.
template <typename Element, typename Stored = Element>
struct TreeAttention {
  int64_t batch, heads, kv_heads, num_rows;
  int64_t capacity;  // slots of a request
  int64_t head_dim;
  HeadRows<const Element> query;
  HeadRows<const Stored> key, value;  // [B, Hkv, N, D], or [num_pages, Hkv, page_size, D]
  HeadScales key_scale, value_scale;
  BlockTable block_table;
  KeyBias<Element> key_bias;
  HeadRows<Element> out;
  HeadRows<float> lse;  // rows of one element; data is null where nobody asks for it
  Visibility visibility;
  float scale;
  int64_t num_splits;  // parts of what a request sees, 0: as many as keep the threads busy
};

// What each committed slot weighs, added up over the rows of its KV head's group.
template <typename Element>
struct AttentionMass {
  int64_t batch, heads, kv_heads, num_rows;
  int64_t capacity;  // slots of a request
  int64_t head_dim;
  HeadRows<const Element> query;
  HeadRows<const Element> key;  // as of TreeAttention
  BlockTable block_table;
  HeadRows<const float> lse;   // of rows of one element
  const int32_t* prefix_lens;  // [B]
  float* mass;                 // [B, Hkv, N], contiguous
  float scale;
};

// Attention over disjoint keys.
template <typename Element>
struct MergeAttention {
  int64_t batch, heads, num_rows, head_dim;
  std::vector<HeadRows<const Element>> outs;  // a part each
  std::vector<HeadRows<const float>> lses;    // rows of one element
  HeadRows<Element> out;
  HeadRows<float> lse;
};

}  // namespace sparrow
