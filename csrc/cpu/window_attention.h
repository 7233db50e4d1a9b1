// CPU drivers of whole-sequence attention, forward and backward.
#pragma once

#include "kernels/attention/window_call.h"

namespace sparrow::cpu {

template <typename Element>
void window_attention(const WindowAttention<Element>& call);

template <typename Element>
void window_gradients(const WindowGradients<Element>& call);

}  // namespace sparrow::cpu
