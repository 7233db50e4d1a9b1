// CPU drivers of gathering and commit: rows moved as bytes.
#pragma once

#include "kernels/gather/call.h"

namespace sparrow::cpu {

void gather_hidden(const GatherHidden& call);
void compact_cache(const CompactCache& call);
void commit_path(const CommitPath& call);
void commit_tree(const CommitTree& call);

}  // namespace sparrow::cpu
