// topk_logprobs.
#include "cpu/topk.h"

#include <algorithm>
#include <cmath>
#include <tuple>

#include "bindings/arguments.h"
#include "bindings/device.h"
#include "bindings/library.h"
#include "bindings/scratch.h"
#include "cuda/topk.h"
#include "kernels/element.h"

namespace sparrow::bindings {
namespace {

bool runs_cuda_code(const Tensor& logits) {
#if defined(SPARROW_EMULATION)
  return true;
#else
  return logits.is_cuda();
#endif
}

template <typename Element>
void run_topk(const Tensor& logits, const Tensor& values, const Tensor& ids) {
  ScratchTensors scratch(logits);
  run(logits, SPARROW_DRIVERS(topk_logprobs<Element>),
      TopkLogprobs<Element>{.num_rows = logits.size(0),
                            .vocab = logits.size(1),
                            .k = values.size(1),
                            .logits = rows<const Element>(logits),
                            .values = data<float>(values),
                            .ids = data<int64_t>(ids),
                            .scratch = scratch.lent()});
}

std::tuple<Tensor, Tensor> topk_logprobs(const Tensor& logits, int64_t k) {
  const Arguments arguments("topk_logprobs", logits);
  arguments.check_dtype("logits", logits,
                        {ScalarType::Float, ScalarType::Half, ScalarType::BFloat16});
  arguments.check_layout("logits", logits, {kAny, kAny});
  const int64_t num_rows = logits.size(0), vocab = logits.size(1);
  arguments.check_in("k", k, 0,
                     runs_cuda_code(logits) ? std::min<int64_t>(vocab, kMaxTopk) : vocab);
  const Tensor values = empty(logits, ScalarType::Float, {num_rows, k});
  const Tensor ids = empty(logits, ScalarType::Long, {num_rows, k});
  switch (logits.scalar_type()) {
    case ScalarType::Half:
      run_topk<Half>(logits, values, ids);
      break;
    case ScalarType::BFloat16:
      run_topk<BFloat16>(logits, values, ids);
      break;
    default:
      run_topk<float>(logits, values, ids);
  }
  return {values, ids};
}

// The same, and whether each row has a softmax: where one has none, its values are NaN.
std::tuple<Tensor, Tensor, bool> topk_logprobs_checked(const Tensor& logits, int64_t k) {
  const auto [values, ids] = topk_logprobs(logits, k);
  bool is_sound = k >= 1;  // else nothing shows
  for (int64_t r = 0; is_sound && r < values.size(0); ++r) {
    is_sound = !std::isnan(data<const float>(values)[r * k]);
  }
  return {values, ids, is_sound};
}

}  // namespace

SPARROW_IMPLEMENT_ON_CPU(on_cpu_alone) {
  on_cpu_alone.impl("topk_logprobs_checked", TORCH_BOX(&topk_logprobs_checked));
}

SPARROW_IMPLEMENT(topk, library) { library.impl("topk_logprobs", TORCH_BOX(&topk_logprobs)); }

}  // namespace sparrow::bindings
