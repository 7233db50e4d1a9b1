// The calls of whole-sequence attention, as their CPU drivers take them.
#pragma once

#include "kernels/attention/call.h"
#include "kernels/scratch.h"

namespace sparrow {

// Row i of a query is position length - num_rows + i. It sees slot j up to its own iff j is an
// anchor or fewer than `window` positions back.
struct WindowShape {
  int64_t batch, heads, kv_heads, num_rows, length, head_dim, window;
  Rows<const bool> anchors;  // [B, length]
  float scale;
};

template <typename Element>
struct WindowAttention {
  WindowShape shape;
  HeadRows<const Element> query, key, value;
  HeadRows<Element> out;
  HeadRows<float> lse;  // rows of one element
  Scratch scratch;
};

template <typename Element>
struct WindowGradients {
  WindowShape shape;
  HeadRows<const Element> grad, query, key, value, out;
  HeadRows<const float> lse, grad_lse;  // rows of one element; grad_lse's data may be null
  HeadRows<Element> d_query, d_key, d_value;
  Scratch scratch;
};

}  // namespace sparrow
