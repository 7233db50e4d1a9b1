// accept_tree_residual and its logits form: the walk of kernels/accept/residual.h, one cluster of
// blocks a request.
//
//   left(i) = max(t(i) - share * d(i), 0)      share += mass(left) / mass(d) at a refusal
//
// Grid: B clusters of 1 to 16 blocks (one block before sm_90), 1 to 16 warps each. A row of ids is
// cut into as many parts as the cluster has warps; a warp keeps its part of the node's two rows,
// as float32 weights, where only it reads them: in shared memory, or in scratch [B, 2, V] where a
// part does not fit (one block before sm_90, V past 12k). All threads take every decision alike.
// Who loads what: at a node each lane loads groups of four ids of its part of target and draft, up
// to ten loads in flight; from then on memory is read for the children's own weights alone. A
// refusal is one pass over the kept parts. Warps bring their masses to every block of the cluster
// (distributed shared memory), one cluster barrier a sum; softmax takes one more a node, for the
// highest logits. The masses of the parts are what the bonus is drawn from: no pass of its own.
// Bytes: V * sizeof(Element) for each node on the path's target row, and again for its draft row if
// it has a child to try; nothing else of [B, T, V]. One exponential an id read, for logits. At
// V = 152k a level is 1.2 MB of float32, 76 KB a block of 16: bound by what sixteen multiprocessors
// can read, and by the barriers.
// Precision: multiplying by share rounds once (its two halves are floats), a lane adds pairs of
// floats, warps and blocks add in double. So masses keep the digits that survive a difference of
// two nearly equal rows, without double-precision arithmetic on every id, of which consumer GPUs
// have little.
// Relies on: V below 2^31; nothing about values. Does not handle: rows whose masses are more than
// 2^120 apart.
#include <algorithm>
#include <atomic>

#include "cuda/launch.h"
#include "cuda/residual_node.h"
#include "cuda/sampling.h"
#include "cuda/team.h"

namespace sparrow::cuda {
namespace {

constexpr int kKnownDevices = 16;
constexpr int kPartGroups = kWarp * 4;  // what a part should have at least, to keep a warp busy

// Grid: one cluster a request. Dynamic shared memory: the exchange, and if kIsShared this block's
// part of two rows; else these lie in `scratch`, [B, 2, parts * groups * 4] floats.
template <typename Weights, bool kIsShared>
__global__ void __launch_bounds__(kMaxWarps* kWarp, 1)
    accept_residual(AcceptTreeResidual<Weights> call, Cut cut, float* scratch) {
  Exchange& exchange = *reinterpret_cast<Exchange*>(dynamic_shared());
  const int64_t b = blockIdx.x / cluster_size();
  Team team(cut, exchange);
  Kept kept;
  if constexpr (kIsShared) {
    kept.target = reinterpret_cast<float*>(dynamic_shared() + sizeof(Exchange));
    kept.draft = kept.target + int64_t{blockDim.x} / kWarp * cut.groups * kGroup;
  } else {
    const int64_t row = int64_t{cut.parts} * cut.groups * kGroup;
    const int64_t block = row / cluster_size();
    kept.target = scratch + 2 * b * row + cluster_rank() * block;
    kept.draft = kept.target + row;
  }
  cluster_sync();  // all of its blocks are there: their shared memory can be written
  const ResidualInputs in{.tree = call.tree.links(b),
                          .tokens = call.tokens[b],
                          .uniform = call.uniform[b],
                          .bonus_uniform = call.bonus_uniform[b],
                          .vocab = call.vocab};
  const auto make_node = [&](int64_t node, bool has_trials) {
    return KeptNode<Weights>(team, call, kept, b, node, has_trials);
  };
  const int32_t length = residual_walk(in, make_node, call.out.rows(b), team.writes());
  if (team.writes()) call.out.accept_length[b] = length;
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

// Blocks a cluster: as many as a row keeps busy, while the batch leaves multiprocessors for them,
// and as many as it takes to keep two rows in shared memory.
template <typename Weights>
int cluster_for(int64_t batch, int64_t wanted_parts, int64_t row_bytes, int shared_bytes) {
  if (device_attribute(cudaDevAttrComputeCapabilityMajor) < 9) return 1;
  const int64_t processors = device_attribute(cudaDevAttrMultiProcessorCount);
  const int64_t room = shared_bytes - int64_t{sizeof(Exchange)};
  int cluster = 1;
  while (cluster < kMaxCluster && cluster * kMaxWarps < wanted_parts &&
         (2 * row_bytes > cluster * room || 2 * cluster * batch <= processors)) {
    cluster *= 2;
  }
  if (cluster > kPortableCluster && largest_clusters<Weights>(shared_bytes) < batch) {
    cluster = kPortableCluster;
  }
  return cluster;
}

}  // namespace

template <typename Weights>
void accept_tree_residual(const AcceptTreeResidual<Weights>& call, Stream stream) {
  if (call.batch == 0) return;
  const int64_t past = groups_of(call.vocab);
  const int64_t wanted_parts = (past + kPartGroups - 1) / kPartGroups;
  const int shared_bytes = device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
  const int64_t row_bytes = past * kGroup * static_cast<int64_t>(sizeof(float));
  const int cluster = cluster_for<Weights>(call.batch, wanted_parts, row_bytes, shared_bytes);
  const int64_t warps = std::min<int64_t>(kMaxWarps, (wanted_parts + cluster - 1) / cluster);
  const int64_t parts = warps * cluster, groups = (past + parts - 1) / parts;
  const Cut cut{static_cast<int>(parts), static_cast<int>(groups), past};

  const int64_t block_bytes = 2 * warps * groups * kGroup * static_cast<int64_t>(sizeof(float));
  const bool is_shared = block_bytes <= shared_bytes - int64_t{sizeof(Exchange)};
  float* scratch = nullptr;
  if (!is_shared) {
    scratch = call.scratch.template get<float>(call.batch * 2 * parts * groups * kGroup);
  }
  launch("accept_tree_residual",
         is_shared ? accept_residual<Weights, true> : accept_residual<Weights, false>,
         {.blocks = call.batch * cluster,
          .threads = static_cast<int>(warps) * kWarp,
          .shared_bytes = sizeof(Exchange) + static_cast<size_t>(is_shared ? block_bytes : 0),
          .cluster = cluster},
         stream, call, cut, scratch);
}

template void accept_tree_residual(const AcceptTreeResidual<PlainWeights>&, Stream);
template void accept_tree_residual(const AcceptTreeResidual<SoftmaxWeights<float>>&, Stream);
template void accept_tree_residual(const AcceptTreeResidual<SoftmaxWeights<Half>>&, Stream);
template void accept_tree_residual(const AcceptTreeResidual<SoftmaxWeights<BFloat16>>&, Stream);

}  // namespace sparrow::cuda
