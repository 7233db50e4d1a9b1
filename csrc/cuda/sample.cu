// sample_tokens and sample_logits: one id a row by the inverse CDF, in two launches.
//
//   mass[r, p] = the sum of the weights of part p of row r      (relative to the part's highest)
//   part       = the first p whose cdf over parts exceeds uniform * total
//   id         = the first in that part whose cdf exceeds it, else the last one with mass
//
// Grid: weigh_parts gives each part of 512 ids a warp, so one row of 152k ids keeps 297 warps busy;
// draw gives each row a warp. Two launches rather than a last arriver: no counter to keep, and any
// number of rows at once. The second begins while the first is at work (dependent.h).
// Who loads what: a lane four groups of four ids, straight from the row, all in flight before the
// first is used. Parts go through scratch [R, P] of 16 bytes.
// Bytes: R * V * sizeof(Element) once, R * (512 * sizeof(Element) + 2 * 16 * V / 512) more; logits
// cost one exponential an id. 30 rows of 152k in float32 took 12.1 us on an H200, their bytes 4.1
// (bench/results/bench-trees.csv).
// Precision: a lane adds 16 weights as pairs of floats, warps and parts add in double. Softmax
// weights are float32 with a relative error of about 2^-22, which moves a cdf by less than 1e-6.
// Relies on: V below 2^31. Does not handle: weights whose sum overflows float32 (-1 comes out).
#include "cuda/dependent.h"
#include "cuda/launch.h"
#include "cuda/row.h"
#include "cuda/sampling.h"

namespace sparrow::cuda {
namespace {

constexpr int kLoads = 4;  // groups a lane
constexpr int kPartGroups = kLoads * kWarp;
constexpr int kPartIds = kPartGroups * kGroup;
constexpr int kThreads = 256;

// What a part weighs beside its highest logit; NaN where one of its weights is none.
struct Part {
  double mass;
  float highest;
};
static_assert(sizeof(Part) == 16);

template <typename Weights>
constexpr float kNoWeight = Weights::kNeedsHighest ? -kInfinity : 0.0f;

// Grid: one warp a part, parts of a row next to one another. parts is [R, num_parts].
template <typename Weights>
__global__ void __launch_bounds__(kThreads)
    weigh_parts(SampleRows<Weights> call, int num_parts, Part* parts) {
  let_next_begin();
  const int64_t place = int64_t{blockIdx.x} * (kThreads / kWarp) + warp();
  const int64_t r = place / num_parts;
  if (r >= call.num_rows) return;
  const int64_t first = place % num_parts * kPartGroups;
  const VocabularyRow row(call.rows[r], call.vocab);

  float values[kLoads][kGroup];
  row.load_strided(first, first + kPartGroups, lane(), kWarp, kNoWeight<Weights>, values);
  float highest = -kInfinity;
  if constexpr (Weights::kNeedsHighest) {
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
#pragma unroll
      for (int j = 0; j < kGroup; ++j) highest = values[i][j] > highest ? values[i][j] : highest;
    }
    highest = warp_max(highest);
  }
  const float reference = highest == -kInfinity ? 0.0f : highest;  // -inf less -inf is no number
  GroupSum sum;
  bool is_valid = true;
#pragma unroll
  for (int i = 0; i < kLoads; ++i) {
#pragma unroll
    for (int j = 0; j < kGroup; ++j) {
      const float weight = call.weights(values[i][j], reference);
      is_valid &= weight >= 0;
      sum.of[j].add(weight);
    }
  }
  const double mass = warp_sum(is_valid ? sum.value() : double{__builtin_nanf("")});
  if (lane() == 0) parts[place] = {mass, highest};
}

// Grid: one warp a row.
template <typename Weights>
__global__ void __launch_bounds__(kWarp)
    draw(SampleRows<Weights> call, int num_parts, const Part* all_parts) {
  wait_for_kernel_before();
  const int64_t r = blockIdx.x;
  const Part* parts = all_parts + r * num_parts;
  float highest = -kInfinity;
  if constexpr (Weights::kNeedsHighest) {
    for (int p = lane(); p < num_parts; p += kWarp) {
      highest = parts[p].highest > highest ? parts[p].highest : highest;
    }
    highest = warp_max(highest);
  }
  const auto mass_of_part = [&](int p) -> double {
    if constexpr (Weights::kNeedsHighest) {
      return parts[p].mass * call.weights(parts[p].highest, highest);
    } else {
      return parts[p].mass;
    }
  };
  double own = 0;
  for (int p = lane(); p < num_parts; p += kWarp) own += mass_of_part(p);
  const double mass = warp_sum(own);
  int64_t id = kNoToken;
  if (is_mass(mass)) {
    const DrawnPart drawn =
        draw_part(num_parts, {0, 0, threshold_of(call.uniform[r], mass)}, mass_of_part);
    const int64_t begin = int64_t{drawn.part} * kPartGroups;
    const int64_t past = groups_of(call.vocab);
    const VocabularyRow row(call.rows[r], call.vocab);
    id = draw_id(begin, begin + kPartGroups < past ? begin + kPartGroups : past, drawn,
                 [&](int64_t group, float (&weights)[kGroup]) {
                   row.load(group, kNoWeight<Weights>, weights);
#pragma unroll
                   for (int j = 0; j < kGroup; ++j) {
                     weights[j] = call.weights(weights[j], highest);
                   }
                 });
  }
  if (lane() == 0) call.ids[r] = id;
}

}  // namespace

template <typename Weights>
void sample_rows(const SampleRows<Weights>& call, Stream stream) {
  if (call.num_rows == 0) return;
  const int num_parts = static_cast<int>((call.vocab + kPartIds - 1) / kPartIds);
  Part* parts = call.scratch.template get<Part>(call.num_rows * num_parts);
  const int64_t warps = call.num_rows * num_parts, each = kThreads / kWarp;
  launch("sample_rows", weigh_parts<Weights>,
         {.blocks = (warps + each - 1) / each, .threads = kThreads}, stream, call, num_parts,
         parts);
  launch("sample_rows", draw<Weights>,
         {.blocks = call.num_rows, .threads = kWarp, .dependent = true}, stream, call, num_parts,
         parts);
}

template void sample_rows(const SampleRows<PlainWeights>&, Stream);
template void sample_rows(const SampleRows<SoftmaxWeights<float>>&, Stream);
template void sample_rows(const SampleRows<SoftmaxWeights<Half>>&, Stream);
template void sample_rows(const SampleRows<SoftmaxWeights<BFloat16>>&, Stream);

}  // namespace sparrow::cuda
