// The acceptance ops on CPU tensors.
#include "cpu/accept.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <tuple>

#include "bindings/acceptance.h"

namespace sparrow::bindings {

AcceptanceTensors run_accept_tree(const Arguments& arguments, const Tensor& tokens,
                                  const Tensor& depth, const Tensor& first_child,
                                  const Tensor& next_sibling, const Tensor& target_tokens,
                                  int64_t max_path) {
  arguments.check("tokens", tokens, ScalarType::Long, {kAny, kAny});
  const int64_t batch = tokens.size(0), slots = tokens.size(1);
  const auto tree = tree_batch(arguments, batch, slots, depth, first_child, next_sibling);
  arguments.check("target_tokens", target_tokens, ScalarType::Long, {batch, slots});
  arguments.check_at_least("max_path", max_path, 1);

  AcceptanceTensors acceptance(tokens, batch, max_path);
  cpu::accept_tree({.batch = batch,
                    .tree = tree,
                    .tokens = rows<const int64_t>(tokens),
                    .target_tokens = rows<const int64_t>(target_tokens),
                    .out = acceptance.pointers()});
  return acceptance;
}

namespace {

std::tuple<Tensor, Tensor, Tensor> accept_tree(const Tensor& tokens, const Tensor& parent,
                                               const Tensor& depth, const Tensor& ancestors,
                                               const Tensor& first_child,
                                               const Tensor& next_sibling,
                                               const Tensor& target_tokens, int64_t max_path) {
  const AcceptanceTensors out = run_accept_tree(Arguments("accept_tree", tokens), tokens, depth,
                                                first_child, next_sibling, target_tokens, max_path);
  return {out.path, out.accept_length, out.emitted};
}

// probs [..., V] and uniform [...]: any leading dims, taken as rows in order.
Tensor sample_tokens(const Tensor& probs, const Tensor& uniform) {
  const Arguments arguments("sample_tokens", probs);
  arguments.check_dtype("probs", probs, {ScalarType::Float});
  arguments.check_dtype("uniform", uniform, {ScalarType::Float});
  const Shape sizes = probs.sizes();
  if (sizes.empty()) arguments.refuse("probs", "[..., V]", text(sizes));
  arguments.check_layout("uniform", uniform, Shape(sizes.data(), sizes.size() - 1));

  // Rows of a batch are read where they are; only more dims in a stranger order cost a copy.
  const Tensor flat = probs.dim() <= 2 ? probs : torch::stable::contiguous(probs);
  const int64_t vocab = sizes[sizes.size() - 1];
  arguments.check_layout("probs", flat, sizes);
  const Tensor coins = torch::stable::contiguous(uniform);
  const Tensor ids = empty(probs, ScalarType::Long, uniform.sizes());
  cpu::sample_tokens({.num_rows = uniform.numel(),
                      .vocab = vocab,
                      .probs = {data<const float>(flat), flat.dim() == 2 ? flat.stride(0) : vocab},
                      .uniform = data<const float>(coins),
                      .ids = data<int64_t>(ids)});
  return ids;
}

std::tuple<Tensor, Tensor, Tensor> accept_tree_residual(
    const Tensor& tokens, const Tensor& parent, const Tensor& depth, const Tensor& ancestors,
    const Tensor& first_child, const Tensor& next_sibling, const Tensor& target_probs,
    const Tensor& draft_probs, const Tensor& uniform, const Tensor& bonus_uniform,
    int64_t max_path) {
  const Arguments arguments("accept_tree_residual", tokens);
  arguments.check("tokens", tokens, ScalarType::Long, {kAny, kAny});
  const int64_t batch = tokens.size(0), slots = tokens.size(1);
  const auto tree = tree_batch(arguments, batch, slots, depth, first_child, next_sibling);
  arguments.check("target_probs", target_probs, ScalarType::Float, {batch, slots, kAny});
  const int64_t vocab = target_probs.size(2);
  arguments.check("draft_probs", draft_probs, ScalarType::Float, {batch, slots, vocab});
  arguments.check("uniform", uniform, ScalarType::Float, {batch, slots});
  arguments.check("bonus_uniform", bonus_uniform, ScalarType::Float, {batch});
  arguments.check_at_least("max_path", max_path, 1);

  const AcceptanceTensors out(tokens, batch, max_path);
  cpu::accept_tree_residual(
      {.batch = batch,
       .vocab = vocab,
       .tree = tree,
       .tokens = rows<const int64_t>(tokens),
       .target_probs = {data<const float>(target_probs), target_probs.stride(1)},
       .target_batch_stride = target_probs.stride(0),
       .draft_probs = {data<const float>(draft_probs), draft_probs.stride(1)},
       .draft_batch_stride = draft_probs.stride(0),
       .uniform = rows<const float>(uniform),
       .bonus_uniform = data<const float>(bonus_uniform),
       .out = out.pointers()});
  return {out.path, out.accept_length, out.emitted};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sparrow_native, CPU, library) {
  library.impl("accept_tree", TORCH_BOX(&accept_tree));
  library.impl("sample_tokens", TORCH_BOX(&sample_tokens));
  library.impl("accept_tree_residual", TORCH_BOX(&accept_tree_residual));
}

}  // namespace sparrow::bindings
