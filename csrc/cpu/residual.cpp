// CPU driver of accept_tree_residual and its logits form. Requests are shared out over threads or,
// where they are fewer, the parts of each row are.
//
// A refusal is one pass over both rows of its node, for the mass of what is left; the draft's mass
// is the sum of its parts (row_parts.h), of which one alone has changed. Rows of probabilities are
// read where they are: what a refusal changed of them is kept beside them.
#include "kernels/accept/residual.h"

#include <type_traits>
#include <vector>

#include "cpu/parallel.h"
#include "cpu/row_parts.h"
#include "cpu/sampling.h"

namespace sparrow::cpu {
namespace {

// The sum of max(target - share * draft, 0).
SPARROW_INLINE double sum_left(const float* target, const float* draft, double share,
                               int64_t count) {
  LaneSums sums;
  const int64_t whole = count - count % kLanes;
  for (int64_t at = 0; at < whole; at += kLanes) {
    fetch_ahead(target + at);
    fetch_ahead(draft + at);
    for (int i = 0; i < 4; ++i) {
      const FourDoubles left =
          widen_four(target + at + 4 * i) - share * widen_four(draft + at + 4 * i);
      sums.add_four(i, left > 0.0 ? left : FourDoubles{});
    }
  }
  for (int64_t i = whole; i < count; ++i) {
    const double left = target[i] - share * draft[i];
    sums.add_one(i - whole, left > 0 ? left : 0.0);
  }
  return sums.total();
}

// A refused token: the draft has lost it, and the target keeps what its refusal left of it.
struct Refused {
  int64_t id;
  float target_left;
};

// What a thread works in, kept from call to call.
struct Memory {
  std::vector<float> target, draft;             // [V], weights of logits
  std::vector<double> target_sums, draft_sums;  // [parts]; of the target: of what is left
  std::vector<float> highest;                   // [2, chunks]
  std::vector<Refused> refused;
  std::vector<uint8_t> has_refused;  // [parts]

  void fit(int64_t vocab, int64_t chunks, bool keeps_weights) {
    if (keeps_weights && static_cast<int64_t>(target.size()) < vocab) {
      target.resize(vocab);
      draft.resize(vocab);
    }
    const int64_t parts = num_parts(vocab);
    target_sums.resize(parts);
    draft_sums.resize(parts);
    highest.resize(2 * chunks);
    has_refused.resize(parts);
  }
};

// The distributions of one node while its children are tried. A node without children to try costs
// the sum of its target alone.
template <typename Weights>
class ResidualNode {
 public:
  ResidualNode(const AcceptTreeResidual<Weights>& call, int64_t b, int64_t node, bool has_trials,
               int64_t threads, Memory& memory)
      : vocab_(call.vocab), parts_(num_parts(call.vocab)), threads_(threads), memory_(memory) {
    memory.fit(vocab_, threads, !kIsPlain);
    memory.refused.clear();
    std::fill(memory.has_refused.begin(), memory.has_refused.end(), 0);
    const Side target{call.target.row(b, node), call.target.weights, memory.target.data(),
                      memory.target_sums.data(), memory.highest.data()};
    const Side draft{call.draft.row(b, node), call.draft.weights, memory.draft.data(),
                     memory.draft_sums.data(), memory.highest.data() + threads};
    weigh_rows(target, draft, has_trials ? 2 : 1);
    target_ = target.weights_of_row();
    draft_ = draft.weights_of_row();
    remainder_.target_mass = mass_of(memory.target_sums.data(), parts_);
    if (has_trials) remainder_.draft_mass = mass_of(memory.draft_sums.data(), parts_);
  }

  WeightPair read(int64_t id) const { return {target_[id], draft_[id]}; }

  bool accepts(double uniform, WeightPair pair) const { return remainder_.accepts(uniform, pair); }

  template <typename Meanwhile>
  void refuse(int64_t, int64_t id, WeightPair pair, const Meanwhile& meanwhile) {
    meanwhile();
    if (!is_mass(remainder_.target_mass)) return;  // accepts nothing, and never will
    remainder_.share = remainder_.share_after_refusal();
    memory_.refused.push_back({id, static_cast<float>(remainder_.left(pair))});
    memory_.has_refused[id / kPart] = 1;
    take_from_draft(id / kPart);
    if (remainder_.share == 0) return;  // the draft has no mass to take from the target
    sum_up_left();
    if (is_mass(remainder_.target_mass)) return;
    // Nothing remains: the node's original target again.
    remainder_.share = 0;
    for (Refused& each : memory_.refused) each.target_left = target_[each.id];
    sum_up_left();
  }

  template <typename Done>
  void bonus(double uniform, const Done& done) const {
    done(draw(memory_.target_sums.data(), vocab_, uniform, [this](Part part, double* left) {
      at_level([&]() SPARROW_INLINED {
        // Nothing refused: the draft was perhaps never read.
        if (remainder_.share == 0) {
          for (int64_t i = 0; i < part.count; ++i) left[i] = target_[part.begin + i];
          return;
        }
        Patched rows(*this, part);
        for (int64_t i = 0; i < part.count; ++i) {
          left[i] = remainder_.left({rows.target[i], rows.draft[i]});
        }
      });
    }));
  }

 private:
  static constexpr bool kIsPlain = std::is_same_v<Weights, PlainWeights>;
  using Element = typename Weights::Element;

  // One of the two rows as it is given, and what is found of it.
  struct Side {
    const Element* row;
    const Weights& weights;
    float* kept;  // weights of logits
    double* sums;
    float* highest;  // of each chunk

    const float* weights_of_row() const {
      if constexpr (kIsPlain) {
        return row;
      } else {
        return kept;
      }
    }
  };

  // The rows of a part as refusals have left them.
  struct Patched {
    const float *target, *draft;
    float rooms[2][kPart];

    SPARROW_INLINE Patched(const ResidualNode& node, Part part)
        : target(node.target_ + part.begin), draft(node.draft_ + part.begin) {
      if (!node.memory_.has_refused[part.begin / kPart]) return;
      std::copy_n(target, part.count, rooms[0]);
      std::copy_n(draft, part.count, rooms[1]);
      for (const Refused& each : node.memory_.refused) {
        const int64_t at = each.id - part.begin;
        if (at < 0 || at >= part.count) continue;
        rooms[0][at] = each.target_left;
        rooms[1][at] = 0;
      }
      target = rooms[0];
      draft = rooms[1];
    }
  };

  // of_chunk(which, chunk) for one or both rows: a thread gets the same ids of either.
  template <typename OfChunk>
  void share_out(int64_t rows, const OfChunk& of_chunk) const {
    run_shared(rows * threads_, threads_,
               [&](int64_t item) { of_chunk(item % rows, item / rows); });
  }

  // Weights of logits, and the sums of both rows or of the target's alone.
  void weigh_rows(const Side& target, const Side& draft, int64_t rows) {
    if constexpr (!kIsPlain) {
      share_out(rows, [&](int64_t which, int64_t c) {
        const Side& side = which == 0 ? target : draft;
        const Chunk chunk(c, threads_, parts_);
        float highest = -__builtin_huge_valf();
        at_level([&]() SPARROW_INLINED {
          for (int64_t part = chunk.first; part < chunk.last; ++part) {
            highest = std::max(highest, highest_of(side.row, Part(part, vocab_)));
          }
        });
        side.highest[c] = highest;
      });
    }
    share_out(rows, [&](int64_t which, int64_t c) {
      const Side& side = which == 0 ? target : draft;
      const Chunk chunk(c, threads_, parts_);
      const float highest = kIsPlain ? 0 : *std::max_element(side.highest, side.highest + threads_);
      at_level([&]() SPARROW_INLINED {
        for (int64_t part = chunk.first; part < chunk.last; ++part) {
          const Part here(part, vocab_);
          float* room = side.kept + here.begin;
          const float* weights = weigh(side.weights, side.row, here, highest, room);
          side.sums[part] = sum_of<!Weights::kNeedsHighest>(weights, here.count);
        }
      });
    });
  }

  // After one of the part's ids was refused.
  void take_from_draft(int64_t part) {
    const Part here(part, vocab_);
    at_level([&]() SPARROW_INLINED {
      const Patched rows(*this, here);
      memory_.draft_sums[part] = sum_of(rows.draft, here.count);
    });
    remainder_.draft_mass = mass_of(memory_.draft_sums.data(), parts_);
  }

  void sum_up_left() {
    share_out(1, [&](int64_t, int64_t c) {
      const Chunk chunk(c, threads_, parts_);
      at_level([&]() SPARROW_INLINED {
        for (int64_t part = chunk.first; part < chunk.last; ++part) {
          const Part here(part, vocab_);
          const Patched rows(*this, here);
          memory_.target_sums[part] =
              remainder_.share == 0
                  ? sum_of(rows.target, here.count)
                  : sum_left(rows.target, rows.draft, remainder_.share, here.count);
        }
      });
    });
    remainder_.target_mass = mass_of(memory_.target_sums.data(), parts_);
  }

  int64_t vocab_, parts_, threads_;
  Memory& memory_;
  const float* target_;
  const float* draft_;
  Remainder remainder_;
};

}  // namespace

template <typename Weights>
void accept_tree_residual(const AcceptTreeResidual<Weights>& call) {
  const auto walk = [&](int64_t b, int64_t threads) {
    thread_local Memory memory_of_thread;
    Memory& memory = memory_of_thread;  // others work on it too
    const ResidualInputs in{.tree = call.tree.links(b),
                            .tokens = call.tokens[b],
                            .uniform = call.uniform[b],
                            .bonus_uniform = call.bonus_uniform[b],
                            .vocab = call.vocab,
                            .max_path = call.out.max_path};
    const auto make_node = [&](int64_t node, bool has_trials) {
      return ResidualNode<Weights>(call, b, node, has_trials, threads, memory);
    };
    WalkedPath path{in.tokens, call.out.rows(b), call.out.accept_length + b, true};
    if (in.tree.is_idle()) return path.idle();
    residual_walk(in, make_node, path, 0, 0);
  };
  const int64_t of_a_row =
      std::min(threads_worth(2 * call.vocab), std::max<int64_t>(1, num_parts(call.vocab)));
  const int64_t of_all = threads_worth(call.batch * call.vocab * call.out.max_path);
  if (call.batch >= of_all) {
    run_shared(call.batch, of_all, [&](int64_t b) { walk(b, 1); });
  } else {
    for (int64_t b = 0; b < call.batch; ++b) walk(b, of_a_row);
  }
}

template void accept_tree_residual(const AcceptTreeResidual<PlainWeights>&);
template void accept_tree_residual(const AcceptTreeResidual<SoftmaxWeights<float>>&);
template void accept_tree_residual(const AcceptTreeResidual<SoftmaxWeights<Half>>&);
template void accept_tree_residual(const AcceptTreeResidual<SoftmaxWeights<BFloat16>>&);

}  // namespace sparrow::cpu
