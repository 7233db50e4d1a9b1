// accept_tree_residual and its logits form: the walk of kernels/accept/residual.h, by clusters of
// blocks.
//
//   left(i) = max(t(i) - share * d(i), 0)      share += mass(left) / mass(d) at a refusal
//
// Grid: B clusters of 1 to 16 blocks (one block before sm_90), 1 to 8 warps each; and, where they
// run at once, up to 16 such clusters a request, among which the tree's nodes are shared out
// (residual_apart.h): what a request takes is then one node and a leaf, not all nodes of its path.
// A row of ids is cut into as many parts as the cluster has warps; a warp keeps its part of the
// node's two rows, as float32 weights, where only it reads them: in shared memory, or in scratch
// where a part does not fit (before sm_90, in one block: V past 20k, with 99 KB past 10k). All
// threads take every decision alike, so a warp more is also one more that decides: on an H100
// eight a block took 44 us for four levels of three refusals each, four 63; sixteen took 59, timed
// before a sum was as short as it is now.
// Who loads what: at a node each lane loads groups of four ids of its part of target and draft, up
// to twenty loads in flight; from then on memory is read for the children's own weights alone. A
// refusal is one pass over the kept parts, five groups of both rows a turn; the warp that had the
// refused id sums its draft in the same pass. Parts are kept in whole turns with zeros behind
// them, so that a turn asks for no bounds. A block adds up its warps' masses and sends them to
// every block of the cluster (mailbox.h), one exchange a sum, during which the next child is
// looked up; softmax takes one more a node, for the highest logits. Links, tokens and coins of up
// to 1,024 nodes come into shared memory in one trip at the start, and the first child's own
// weights are on their way while a row is. The masses of blocks and warps are what the bonus is
// drawn from: no pass of its own.
// Bytes: V * sizeof(Element) for each node on the path's target row, and again for its draft row
// if it has a child to try; apart, both rows of every node with children, and the target row of a
// leaf for each. One exponential an id read, for logits. At V = 152k a level is 1.2 MB of float32,
// 76 KB a block of 16. What bounds it are the sums, one by one: one cluster took 43 us for four
// levels of three refusals on an H200, whose memory needs 1.4 for their bytes
// (bench/results/bench-trees.csv, of a kernel before this one). Its sampled program counters put
// half of that into the twelve refusals, about 2 us each, which wait less for memory than for one
// another's instructions, a quarter into loading the nodes, an eighth into fetching code. Since
// then a refusal is some 680 instructions of a warp, not 800, and a node some 650, not 1,200, and
// nodes are tried apart; no GPU has timed that.
// Precision: multiplying by share rounds once (its two halves are floats), the weights of three
// groups are added as floats, these sums as pairs of floats, lanes, warps and blocks in double: no
// term is negative, so for a given share a mass has float32's digits, without double-precision
// arithmetic on every id, of which consumer GPUs have little.
// Relies on: V below 2^31; nothing about values. Does not handle: rows whose masses are more than
// 2^120 apart.
#include <algorithm>
#include <atomic>

#include "cuda/counters.h"
#include "cuda/launch.h"
#include "cuda/residual_apart.h"
#include "cuda/residual_node.h"
#include "cuda/sampling.h"
#include "cuda/team.h"

namespace sparrow::cuda {
namespace {

constexpr int kKnownDevices = 16;
constexpr int kPartGroups = kWarp * 4;    // what a part should have at least, to keep a warp busy
constexpr int64_t kMostNearNodes = 1024;  // of a tree whose links lie in shared memory
constexpr int64_t kMostApart = 16;        // clusters a request
constexpr int64_t kMostScratchBytes = 64 << 20;  // of all clusters, if there are several a request

// Shared memory in front of the kept rows: the exchange and a small tree's links.
__host__ __device__ int64_t bytes_before_rows(int64_t slots) {
  constexpr int64_t kNode = sizeof(int64_t) + 3 * sizeof(int32_t) + sizeof(float);
  const int64_t near = slots <= kMostNearNodes ? (slots * kNode + 15) / 16 * 16 : 0;
  return int64_t{sizeof(Exchange)} + near;
}

// A request's links, tokens and coins, in shared memory once the block has met a barrier. A large
// tree's stay where they are.
template <typename Weights>
__device__ ResidualInputs bring_in(const AcceptTreeResidual<Weights>& call, int64_t b,
                                   char* memory) {
  ResidualInputs in{.tree = call.tree.links(b),
                    .tokens = call.tokens[b],
                    .uniform = call.uniform[b],
                    .bonus_uniform = call.bonus_uniform[b],
                    .vocab = call.vocab,
                    .max_path = call.out.max_path};
  const int slots = static_cast<int>(in.tree.num_slots);
  if (in.tree.num_slots > kMostNearNodes) return in;
  int64_t* tokens = reinterpret_cast<int64_t*>(memory);
  int32_t* depth = reinterpret_cast<int32_t*>(tokens + slots);
  int32_t* first_child = depth + slots;
  int32_t* next_sibling = first_child + slots;
  float* uniform = reinterpret_cast<float*>(next_sibling + slots);
  for (int node = static_cast<int>(threadIdx.x); node < slots; node += blockDim.x) {
    tokens[node] = in.tokens[node];
    depth[node] = in.tree.depth[node];
    first_child[node] = in.tree.first_child[node];
    next_sibling[node] = in.tree.next_sibling[node];
    uniform[node] = in.uniform[node];
  }
  in.tree.depth = depth;
  in.tree.first_child = first_child;
  in.tree.next_sibling = next_sibling;
  in.tokens = tokens;
  in.uniform = uniform;
  return in;
}

// Grid: (B clusters, those of a request). Dynamic shared memory: bytes_before_rows, and if
// kIsShared this block's part of two rows; else these lie in `scratch`, floats
// [clusters, B, 2, parts * kept * 4].
template <typename Weights, bool kIsShared>
__global__ void __launch_bounds__(kMaxWarps* kWarp, 1)
    accept_residual(AcceptTreeResidual<Weights> call, Cut cut, Apart apart, float* scratch) {
  Exchange& exchange = *reinterpret_cast<Exchange*>(dynamic_shared());
  const int64_t b = blockIdx.x / cluster_size();
  Team team(cut, exchange);
  const int64_t part = int64_t{cut.kept} * kGroup;
  Kept own{nullptr, nullptr, cut.kept};
  if constexpr (kIsShared) {
    char* rows = dynamic_shared() + bytes_before_rows(call.tree.num_slots);
    own.target = reinterpret_cast<float*>(rows) + warp() * part;
    own.draft = own.target + int64_t{blockDim.x} / kWarp * part;
  } else {
    const int64_t cluster = blockIdx.y * call.batch + b;
    own.target = scratch + (2 * cluster * cut.parts + team.part()) * part;
    own.draft = own.target + cut.parts * part;
  }
  if (threadIdx.x == 0) {
    for (auto& box : exchange.boxes) box.open();
  }
  const ResidualInputs in = bring_in(call, b, dynamic_shared() + sizeof(Exchange));
  cluster_begin();
  __syncthreads();
  const Begin begin = begin_of(in.tree, apart.clusters, static_cast<int>(blockIdx.y));
  if (begin.node < 0) return;
  const WalkedPath whole{in.tokens, call.out.rows(b), call.out.accept_length + b, team.writes()};
  if (in.tree.is_idle()) return whole.idle();
  ClusterPath path(in, whole, apart, b, begin);
  const auto make_node = [&](int64_t node, FirstTrial first) {
    return KeptNode<Weights>(team, call, in, own, b, node, first);
  };
  residual_walk(in, make_node, path, begin.node, begin.length);
}

int device_attribute(cudaDeviceAttr attribute) {
  int device = 0, value = 0;
  check(cudaGetDevice(&device), "accept_tree_residual");
  check(cudaDeviceGetAttribute(&value, attribute, device), "accept_tree_residual");
  return value;
}

// How many clusters of the largest size run at once, with all of a block's shared memory in use; 0
// where the device's processors do not lie so. Asked once a device.
template <typename Weights>
int largest_clusters(int shared_bytes) {
  static std::atomic<int> known[kKnownDevices];  // less 1
  int device = 0;
  check(cudaGetDevice(&device), "accept_tree_residual");
  std::atomic<int>* memory = device < kKnownDevices ? &known[device] : nullptr;
  if (memory != nullptr && memory->load() > 0) return memory->load() - 1;

  const auto kernel = accept_residual<Weights, true>;
  allow_most("accept_tree_residual", kernel);
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = kMaxCluster;
  attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(kMaxCluster, 1, 1);
  config.blockDim = dim3(kMaxWarps * kWarp, 1, 1);
  config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  config.attrs = &attribute;
  config.numAttrs = 1;
  int clusters = 0;
  if (cudaOccupancyMaxActiveClusters(&clusters, kernel, &config) != cudaSuccess) {
    cudaGetLastError();
    clusters = 0;
  }
  if (memory != nullptr) memory->store(clusters + 1);
  return clusters;
}

bool has_clusters() { return compute_major("accept_tree_residual") >= 9; }

// How a row of `past` groups lies in clusters of a size, and in their blocks.
struct Layout {
  int cluster;
  int64_t warps, block_bytes;  // of a block; the bytes are those of both rows
  Cut cut;

  Layout(int cluster, int64_t past) : cluster(cluster) {
    warps = std::min<int64_t>(kMaxWarps, (parts_worth(past) + cluster - 1) / cluster);
    const int64_t parts = warps * cluster, groups = (past + parts - 1) / parts;
    const int64_t kept = (groups + kTurnGroups - 1) / kTurnGroups * kTurnGroups;
    cut = {static_cast<int>(parts), static_cast<int>(groups), static_cast<int>(kept), past};
    block_bytes = 2 * warps * kept * kGroup * static_cast<int64_t>(sizeof(float));
  }

  static int64_t parts_worth(int64_t past) {
    return std::max<int64_t>(1, (past + kPartGroups - 1) / kPartGroups);
  }

  bool keeps_more_busy() const {
    return cluster < kMaxCluster && cluster * kMaxWarps < parts_worth(cut.past);
  }
};

// Clusters of as many blocks as a row keeps busy, while the batch leaves multiprocessors for them,
// and as many as it takes to keep two rows in the `room` of their shared memory.
template <typename Weights>
Layout layout_for(int64_t batch, int64_t past, int64_t room, int shared_bytes) {
  Layout layout(1, past);
  if (!has_clusters()) return layout;
  const int64_t processors = device_attribute(cudaDevAttrMultiProcessorCount);
  while (layout.keeps_more_busy() &&
         (layout.block_bytes > room || 2 * layout.cluster * batch <= processors)) {
    layout = Layout(2 * layout.cluster, past);
  }
  if (layout.cluster > kPortableCluster && largest_clusters<Weights>(shared_bytes) < batch) {
    layout = Layout(kPortableCluster, past);
  }
  return layout;
}

// Clusters a request, for nodes that are tried apart: as many as run at once, and as a tree of so
// many slots can keep busy.
template <typename Weights>
int clusters_for(const AcceptTreeResidual<Weights>& call, int cluster, int shared_bytes,
                 int64_t scratch_bytes) {
  const int64_t slots = call.tree.num_slots;
  if (slots > kMostNearNodes || call.out.max_path == 1) return 1;
  int64_t room = kMostApart;
  if (scratch_bytes > 0) room = std::min(room, kMostScratchBytes / scratch_bytes);
  const int64_t at_once = cluster > kPortableCluster
                              ? largest_clusters<Weights>(shared_bytes)
                              : device_attribute(cudaDevAttrMultiProcessorCount) / cluster;
  return static_cast<int>(std::max<int64_t>(1, std::min({room, slots - 1, at_once / call.batch})));
}

}  // namespace

template <typename Weights>
void accept_tree_residual(const AcceptTreeResidual<Weights>& call, Stream stream) {
  if (call.batch == 0) return;
  const int shared_bytes = device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
  const int64_t before_rows = bytes_before_rows(call.tree.num_slots);
  const int64_t room = shared_bytes - before_rows;
  const auto [cluster, warps, block_bytes, cut] =
      layout_for<Weights>(call.batch, groups_of(call.vocab), room, shared_bytes);
  const bool is_shared = block_bytes <= room;
  const int64_t kept_bytes = is_shared ? 0 : cluster * block_bytes * call.batch;
  Apart apart{clusters_for(call, cluster, shared_bytes, kept_bytes), nullptr, nullptr};
  if (apart.clusters > 1) {
    apart.steps = call.scratch.template get<Step>(call.batch * call.tree.num_slots);
    apart.counters = counters(call.batch, stream);
  }
  float* scratch = nullptr;
  if (!is_shared) {
    scratch = call.scratch.template get<float>(apart.clusters * kept_bytes /
                                               static_cast<int64_t>(sizeof(float)));
  }
  launch("accept_tree_residual",
         is_shared ? accept_residual<Weights, true> : accept_residual<Weights, false>,
         {.blocks = call.batch * cluster,
          .threads = static_cast<int>(warps) * kWarp,
          .shared_bytes = static_cast<size_t>(before_rows + (is_shared ? block_bytes : 0)),
          .cluster = has_clusters() ? cluster : 0,
          .blocks_y = apart.clusters},
         stream, call, cut, apart, scratch);
}

template void accept_tree_residual(const AcceptTreeResidual<PlainWeights>&, Stream);
template void accept_tree_residual(const AcceptTreeResidual<SoftmaxWeights<float>>&, Stream);
template void accept_tree_residual(const AcceptTreeResidual<SoftmaxWeights<Half>>&, Stream);
template void accept_tree_residual(const AcceptTreeResidual<SoftmaxWeights<BFloat16>>&, Stream);

}  // namespace sparrow::cuda
