// CPU drivers of the acceptance kernels: loops over requests.
#pragma once

#include "kernels/accept/call.h"

namespace sparrow::cpu {

void accept_tree(const AcceptTree& call);

}  // namespace sparrow::cpu
