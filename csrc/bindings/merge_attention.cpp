// Joining parts of attention on a CPU: on a GPU the kernel is Triton's.
#include <stdexcept>

#include "bindings/arguments.h"
#include "bindings/device.h"
#include "bindings/head_rows.h"
#include "bindings/library.h"
#include "cpu/attention.h"
#include "kernels/element.h"

namespace sparrow::bindings {
namespace {

template <typename Element>
void merge(const TensorList& outs, const TensorList& lses, const Tensor& out, const Tensor& lse) {
  MergeAttention<Element> call{.batch = out.size(0),
                               .heads = out.size(1),
                               .num_rows = out.size(2),
                               .head_dim = out.size(3),
                               .outs = {},
                               .lses = {},
                               .out = head_rows<Element>(out),
                               .lse = head_rows<float>(lse)};
  for (const Tensor& part : outs) call.outs.push_back(head_rows<const Element>(part));
  for (const Tensor& part : lses) call.lses.push_back(head_rows<const float>(part));
  run(out, SPARROW_CPU_DRIVER(merge_attention<Element>), call);
}

std::tuple<Tensor, Tensor> merge_attention(const TensorList& outs, const TensorList& lses) {
  if (outs.empty() || outs.size() != lses.size()) {
    throw std::invalid_argument("merge_attention: outs and lses must be as many and at least one");
  }
  const Tensor& first = outs[0];
  const Arguments arguments("merge_attention", first);
  const ScalarType dtype = first.scalar_type();
  arguments.check_dtype("outs", first, {ScalarType::Float, ScalarType::Half, ScalarType::BFloat16});
  for (const Tensor& part : outs) {
    arguments.check("outs", part, dtype, {kAny, kAny, kAny, kAny});
    arguments.check("outs", part, dtype, first.sizes());
  }
  const int64_t batch = first.size(0), heads = first.size(1), num_rows = first.size(2);
  for (const Tensor& part : lses) check_lse(arguments, "lses", part, {batch, heads, num_rows});
  const Tensor out = empty(first, dtype, {batch, heads, num_rows, first.size(3)});
  const Tensor lse = empty(first, ScalarType::Float, {batch, heads, num_rows});
  switch (dtype) {
    case ScalarType::Half:
      merge<Half>(outs, lses, out, lse);
      break;
    case ScalarType::BFloat16:
      merge<BFloat16>(outs, lses, out, lse);
      break;
    default:
      merge<float>(outs, lses, out, lse);
  }
  return {out, lse};
}

}  // namespace

SPARROW_IMPLEMENT_ON_CPU(library) { library.impl("merge_attention", TORCH_BOX(&merge_attention)); }

}  // namespace sparrow::bindings
