// CPU drivers of the sampling kernels: loops over rows and requests.
#pragma once

#include "kernels/accept/sampling_call.h"

namespace sparrow::cpu {

template <typename Weights>
void sample_rows(const SampleRows<Weights>& call);

template <typename Weights>
void accept_tree_residual(const AcceptTreeResidual<Weights>& call);

// Whether the values of such a call, of which `out` is not read, are what it asks for.
template <typename Weights>
bool residual_is_sound(const AcceptTreeResidual<Weights>& call);

}  // namespace sparrow::cpu
