// CPU drivers of the tree kernels: loops over requests.
#pragma once

#include "kernels/tree/call.h"

namespace sparrow::cpu {

void build_tree(const BuildTree& call);
void select_tree(const SelectTree& call);

}  // namespace sparrow::cpu
