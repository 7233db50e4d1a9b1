// CPU drivers of appending to the cache, with and without rotary embedding.
#pragma once

#include "kernels/attention/call.h"

namespace sparrow::cpu {

void append_cache(const AppendCache& call);

template <typename Element, typename Angle>
void rotate_append(const RotateAppend<Element, Angle>& call);

template <typename Element>
void append_float8(const AppendFloat8<Element>& call);

template <typename Element, typename Angle>
void rotate_append_float8(const RotateAppendFloat8<Element, Angle>& call);

}  // namespace sparrow::cpu
