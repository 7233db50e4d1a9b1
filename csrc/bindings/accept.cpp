// accept_tree.
#include "cpu/accept.h"

#include <tuple>

#include "bindings/acceptance.h"
#include "bindings/device.h"
#include "bindings/library.h"
#include "cuda/accept.h"

namespace sparrow::bindings {

namespace {

std::tuple<Tensor, Tensor, Tensor> accept_tree(const Tensor& tokens, const Tensor& parent,
                                               const Tensor& depth, const Tensor& ancestors,
                                               const Tensor& first_child,
                                               const Tensor& next_sibling,
                                               const Tensor& target_tokens, int64_t max_path) {
  AcceptTree call = read_accept_tree(Arguments("accept_tree", tokens), tokens, parent, depth,
                                     first_child, next_sibling, target_tokens, max_path);
  const AcceptanceTensors out(tokens, call.batch, max_path);
  call.out = out.pointers();
  run(tokens, SPARROW_DRIVERS(accept_tree), call);
  return {out.path, out.accept_length, out.emitted};
}

}  // namespace

SPARROW_IMPLEMENT(accept, library) { library.impl("accept_tree", TORCH_BOX(&accept_tree)); }

}  // namespace sparrow::bindings
