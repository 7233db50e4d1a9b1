// Joins attention over disjoint keys: each part counts by its share of the mass.
//
//   total = sum exp(lse_p - max lse)    out = sum exp(lse_p - max lse) / total * out_p
//
// Bytes: the parts once, the result once. A part without mass is not read.
#include <algorithm>
#include <cmath>

#include "cpu/attention.h"
#include "cpu/clones.h"
#include "cpu/parallel.h"
#include "kernels/element.h"

namespace sparrow::cpu {
namespace {

constexpr int64_t kBlock = 64;  // dims that are summed up at a time

// out = sum shares[p] * parts[p], parts of no share left out.
template <typename Element>
SPARROW_INLINE void add_up(const Element* const* parts, const float* shares, int64_t num_parts,
                           int64_t head_dim, Element* out) {
  for (int64_t begin = 0; begin < head_dim; begin += kBlock) {
    const int64_t count = std::min(kBlock, head_dim - begin);
    float sums[kBlock] = {};
    for (int64_t p = 0; p < num_parts; ++p) {
      const float share = shares[p];
      if (share == 0.0f) continue;
      const Element* from = parts[p] + begin;
      for (int64_t d = 0; d < count; ++d) sums[d] += share * to_float(from[d]);
    }
    for (int64_t d = 0; d < count; ++d) from_float(sums[d], &out[begin + d]);
  }
}

// Overloads, not one template: target_clones does not mark templates.
#define ADD(Element)                                                                           \
  SPARROW_CLONES void add(const Element* const* parts, const float* shares, int64_t num_parts, \
                          int64_t head_dim, Element* out) {                                    \
    add_up(parts, shares, num_parts, head_dim, out);                                           \
  }
ADD(float)
ADD(Half)
ADD(BFloat16)
#undef ADD

}  // namespace

template <typename Element>
void merge_attention(const MergeAttention<Element>& call) {
  const int64_t num_parts = static_cast<int64_t>(call.outs.size());
  const auto merge = [&](int64_t begin, int64_t end) {
    std::vector<const Element*> parts(num_parts);
    std::vector<float> shares(num_parts);
    for (int64_t row = begin; row < end; ++row) {
      const int64_t b = row / (call.heads * call.num_rows);
      const int64_t head = row / call.num_rows % call.heads, i = row % call.num_rows;
      float highest = -HUGE_VALF, total = 0.0f;
      for (int64_t p = 0; p < num_parts; ++p) {
        parts[p] = call.outs[p].row(b, head, i);
        shares[p] = *call.lses[p].row(b, head, i);
        highest = std::max(highest, shares[p]);
      }
      for (float& share : shares) {
        share = share == -HUGE_VALF ? 0.0f : std::exp(share - highest);
        total += share;
      }
      for (float& share : shares) share = total == 0.0f ? 0.0f : share / total;
      add(parts.data(), shares.data(), num_parts, call.head_dim, call.out.row(b, head, i));
      *call.lse.row(b, head, i) = total == 0.0f ? -HUGE_VALF : highest + std::log(total);
    }
  };
  for_each_part(call.batch * call.heads * call.num_rows, (num_parts + 1) * call.head_dim, merge);
}

template void merge_attention(const MergeAttention<float>&);
template void merge_attention(const MergeAttention<Half>&);
template void merge_attention(const MergeAttention<BFloat16>&);

}  // namespace sparrow::cpu
