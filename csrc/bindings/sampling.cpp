// The ops that sample: from rows, and along trees by recursive rejection.
#include "cpu/sampling.h"

#include <torch/csrc/stable/ops.h>

#include <cmath>
#include <tuple>

#include "bindings/acceptance.h"
#include "bindings/device.h"
#include "bindings/library.h"
#include "bindings/scratch.h"
#include "cuda/sampling.h"
#include "kernels/accept/sample.h"

namespace sparrow::bindings {
namespace {

void check_temperature(const Arguments& arguments, const char* argument, double temperature) {
  if (temperature > 0 && std::isfinite(temperature)) return;
  arguments.refuse(argument, "above 0 and finite (greedy is argmax)", std::to_string(temperature));
}

// Calls make(logits' element type) for one of the three.
template <typename Make>
void for_element(const Tensor& logits, const Make& make) {
  switch (logits.scalar_type()) {
    case ScalarType::Half:
      return make(Half{});
    case ScalarType::BFloat16:
      return make(BFloat16{});
    default:
      return make(float{});
  }
}

// rows [..., V] and uniform [...]: any leading dims, taken as rows in order.
struct SampleArguments {
  Tensor rows, uniform, ids;

  SampleArguments(const Arguments& arguments, const char* name, const Tensor& given,
                  const Tensor& coins) {
    arguments.check_dtype("uniform", coins, {ScalarType::Float});
    const Shape sizes = given.sizes();
    if (sizes.empty()) arguments.refuse(name, "[..., V]", text(sizes));
    arguments.check_layout("uniform", coins, Shape(sizes.data(), sizes.size() - 1));
    // Rows of a batch are read where they are; only more dims in a stranger order cost a copy.
    rows = given.dim() <= 2 ? given : torch::stable::contiguous(given);
    arguments.check_layout(name, rows, sizes);
    uniform = torch::stable::contiguous(coins);
    ids = empty(given, ScalarType::Long, coins.sizes());
  }

  template <typename Weights>
  void sample(const Weights& weights) const {
    const int64_t vocab = rows.size(rows.dim() - 1);
    ScratchTensors scratch(rows);
    run(rows, SPARROW_DRIVERS(sample_rows<Weights>),
        SampleRows<Weights>{.num_rows = uniform.numel(),
                            .vocab = vocab,
                            .rows = {data<const typename Weights::Element>(rows),
                                     rows.dim() == 2 ? rows.stride(0) : vocab},
                            .weights = weights,
                            .uniform = data<const float>(uniform),
                            .ids = data<int64_t>(ids),
                            .scratch = scratch.lent()});
  }
};

Tensor sample_tokens(const Tensor& probs, const Tensor& uniform) {
  const Arguments arguments("sample_tokens", probs);
  arguments.check_dtype("probs", probs, {ScalarType::Float});
  const SampleArguments call(arguments, "probs", probs, uniform);
  call.sample(PlainWeights{});
  return call.ids;
}

Tensor sample_logits(const Tensor& logits, const Tensor& uniform, double temperature) {
  const Arguments arguments("sample_logits", logits);
  arguments.check_dtype("logits", logits,
                        {ScalarType::Float, ScalarType::Half, ScalarType::BFloat16});
  check_temperature(arguments, "temperature", temperature);
  const SampleArguments call(arguments, "logits", logits, uniform);
  for_element(logits, [&](auto element) {
    call.sample(SoftmaxWeights<decltype(element)>{inverse_of_temperature(temperature)});
  });
  return call.ids;
}

// The same, and whether all rows could be sampled from, all coins being in [0, 1].
std::tuple<Tensor, bool> with_soundness(const Tensor& ids, const Tensor& uniform) {
  const Tensor coins = torch::stable::contiguous(uniform);
  const int64_t* id = data<const int64_t>(ids);
  const float* coin = data<const float>(coins);
  bool is_sound = true;
  for (int64_t r = 0; r < ids.numel(); ++r) {
    is_sound &= id[r] != kNoToken && coin[r] >= 0 && coin[r] <= 1;
  }
  return {ids, is_sound};
}

std::tuple<Tensor, bool> sample_tokens_checked(const Tensor& probs, const Tensor& uniform) {
  return with_soundness(sample_tokens(probs, uniform), uniform);
}

std::tuple<Tensor, bool> sample_logits_checked(const Tensor& logits, const Tensor& uniform,
                                               double temperature) {
  return with_soundness(sample_logits(logits, uniform, temperature), uniform);
}

// What both forms of accept_tree_residual have beside their distributions.
struct ResidualArguments {
  int64_t batch, slots, vocab;
  TreeBatch tree;
  const Tensor &tokens, &uniform, &bonus_uniform;
  AcceptanceTensors out;

  template <typename Weights>
  AcceptTreeResidual<Weights> call(const Tensor& target, const Weights& target_weights,
                                   const Tensor& draft, const Weights& draft_weights) const {
    return {.batch = batch,
            .vocab = vocab,
            .tree = tree,
            .tokens = rows<const int64_t>(tokens),
            .target = node_rows(target, target_weights),
            .draft = node_rows(draft, draft_weights),
            .uniform = rows<const float>(uniform),
            .bonus_uniform = data<const float>(bonus_uniform),
            .out = out.pointers(),
            .scratch = {}};
  }

  template <typename Weights>
  void accept(AcceptTreeResidual<Weights> call) const {
    ScratchTensors scratch(tokens);
    call.scratch = scratch.lent();
    run(tokens, SPARROW_DRIVERS(accept_tree_residual<Weights>), call);
  }

 private:
  template <typename Weights>
  static NodeRows<Weights> node_rows(const Tensor& given, const Weights& weights) {
    return {
        {data<const typename Weights::Element>(given), given.stride(1)}, given.stride(0), weights};
  }
};

ResidualArguments residual_arguments(const Arguments& arguments, const Tensor& tokens,
                                     const Tensor& parent, const Tensor& depth,
                                     const Tensor& first_child, const Tensor& next_sibling,
                                     const char* target_name, const Tensor& target,
                                     const char* draft_name, const Tensor& draft,
                                     const Tensor& uniform, const Tensor& bonus_uniform,
                                     int64_t max_path) {
  arguments.check("tokens", tokens, ScalarType::Long, {kAny, kAny});
  const int64_t batch = tokens.size(0), slots = tokens.size(1);
  const auto tree = tree_batch(arguments, batch, slots, parent, depth, first_child, next_sibling);
  arguments.check_layout(target_name, target, {batch, slots, kAny});
  const int64_t vocab = target.size(2);
  arguments.check(draft_name, draft, target.scalar_type(), {batch, slots, vocab});
  arguments.check("uniform", uniform, ScalarType::Float, {batch, slots});
  arguments.check("bonus_uniform", bonus_uniform, ScalarType::Float, {batch});
  arguments.check_at_least("max_path", max_path, 1);
  return {batch,  slots,   vocab,         tree,
          tokens, uniform, bonus_uniform, AcceptanceTensors(tokens, batch, max_path)};
}

std::tuple<Tensor, Tensor, Tensor> accept_tree_residual(
    const Tensor& tokens, const Tensor& parent, const Tensor& depth, const Tensor& ancestors,
    const Tensor& first_child, const Tensor& next_sibling, const Tensor& target_probs,
    const Tensor& draft_probs, const Tensor& uniform, const Tensor& bonus_uniform,
    int64_t max_path) {
  const Arguments arguments("accept_tree_residual", tokens);
  arguments.check_dtype("target_probs", target_probs, {ScalarType::Float});
  const auto call = residual_arguments(arguments, tokens, parent, depth, first_child, next_sibling,
                                       "target_probs", target_probs, "draft_probs", draft_probs,
                                       uniform, bonus_uniform, max_path);
  call.accept(call.call(target_probs, PlainWeights{}, draft_probs, PlainWeights{}));
  return {call.out.path, call.out.accept_length, call.out.emitted};
}

std::tuple<Tensor, Tensor, Tensor> accept_tree_residual_logits(
    const Tensor& tokens, const Tensor& parent, const Tensor& depth, const Tensor& ancestors,
    const Tensor& first_child, const Tensor& next_sibling, const Tensor& target_logits,
    const Tensor& draft_logits, const Tensor& uniform, const Tensor& bonus_uniform,
    int64_t max_path, double temperature, double draft_temperature) {
  const Arguments arguments("accept_tree_residual_logits", tokens);
  arguments.check_dtype("target_logits", target_logits,
                        {ScalarType::Float, ScalarType::Half, ScalarType::BFloat16});
  check_temperature(arguments, "temperature", temperature);
  check_temperature(arguments, "draft_temperature", draft_temperature);
  const auto call = residual_arguments(arguments, tokens, parent, depth, first_child, next_sibling,
                                       "target_logits", target_logits, "draft_logits", draft_logits,
                                       uniform, bonus_uniform, max_path);
  for_element(target_logits, [&](auto element) {
    using Weights = SoftmaxWeights<decltype(element)>;
    call.accept(call.call(target_logits, Weights{inverse_of_temperature(temperature)}, draft_logits,
                          Weights{inverse_of_temperature(draft_temperature)}));
  });
  return {call.out.path, call.out.accept_length, call.out.emitted};
}

#if !defined(SPARROW_EMULATION)
// Whether the values of such a call are what it asks for; what is wrong with them, Python says.
bool residual_is_sound(const Tensor& tokens, const Tensor& parent, const Tensor& depth,
                       const Tensor& first_child, const Tensor& next_sibling, const Tensor& target,
                       const Tensor& draft, const Tensor& uniform, const Tensor& bonus_uniform,
                       bool are_logits) {
  const Arguments arguments("residual_is_sound", tokens);
  arguments.check_dtype("target", target,
                        {ScalarType::Float, ScalarType::Half, ScalarType::BFloat16});
  const auto call = residual_arguments(arguments, tokens, parent, depth, first_child, next_sibling,
                                       "target", target, "draft", draft, uniform, bonus_uniform, 1);
  if (!are_logits) {
    arguments.check_dtype("target", target, {ScalarType::Float});
    return cpu::residual_is_sound(call.call(target, PlainWeights{}, draft, PlainWeights{}));
  }
  bool is_sound = false;
  for_element(target, [&](auto element) {
    const SoftmaxWeights<decltype(element)> weights{1};
    is_sound = cpu::residual_is_sound(call.call(target, weights, draft, weights));
  });
  return is_sound;
}
#endif

}  // namespace

SPARROW_IMPLEMENT_ON_CPU(on_cpu_alone) {
  on_cpu_alone.impl("sample_tokens_checked", TORCH_BOX(&sample_tokens_checked));
  on_cpu_alone.impl("sample_logits_checked", TORCH_BOX(&sample_logits_checked));
#if !defined(SPARROW_EMULATION)
  on_cpu_alone.impl("residual_is_sound", TORCH_BOX(&residual_is_sound));
#endif
}

SPARROW_IMPLEMENT(sampling, library) {
  library.impl("sample_tokens", TORCH_BOX(&sample_tokens));
  library.impl("sample_logits", TORCH_BOX(&sample_logits));
  library.impl("accept_tree_residual", TORCH_BOX(&accept_tree_residual));
  library.impl("accept_tree_residual_logits", TORCH_BOX(&accept_tree_residual_logits));
}

}  // namespace sparrow::bindings
