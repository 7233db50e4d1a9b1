#include <algorithm>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "cuda/counters.h"
#include "cuda/launch.h"

namespace sparrow::cuda {
namespace {

constexpr int64_t kSlabCounters = 1 << 18;  // 1 MiB

struct Region {
  uint32_t* data = nullptr;
  int64_t count = 0;
};

// Lets this thread allocate while one of its streams is being captured.
class RelaxedCapture {
 public:
  RelaxedCapture() { check(cudaThreadExchangeStreamCaptureMode(&mode_), "counters"); }
  ~RelaxedCapture() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  RelaxedCapture(const RelaxedCapture&) = delete;
  RelaxedCapture& operator=(const RelaxedCapture&) = delete;

 private:
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

Region zeroed(int64_t count) {
  const RelaxedCapture relaxed;
  const size_t bytes = static_cast<size_t>(count) * sizeof(uint32_t);
  Region region{nullptr, count};
  cudaStream_t own = nullptr;  // captured by nobody, and waits for nobody
  check(cudaMalloc(reinterpret_cast<void**>(&region.data), bytes), "counters");
  check(cudaStreamCreateWithFlags(&own, cudaStreamNonBlocking), "counters");
  check(cudaMemsetAsync(region.data, 0, bytes, own), "counters");
  check(cudaStreamSynchronize(own), "counters");
  check(cudaStreamDestroy(own), "counters");
  return region;
}

// All counters of the process, which lives no longer: a graph may be destroyed at its very end.
class Counters {
 public:
  static Counters& all() {
    static Counters& counters = *new Counters;
    return counters;
  }

  uint32_t* take(int64_t count, Stream stream) {
    int device = 0;
    check(cudaGetDevice(&device), "counters");
    cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
    cudaGraph_t graph = nullptr;
    check(cudaStreamGetCaptureInfo(stream, &capture, nullptr, &graph), "counters");
    const std::lock_guard<std::mutex> lock(mutex_);
    if (capture != cudaStreamCaptureStatusNone) return of_graph(device, count, graph);
    unsigned long long id = 0;  // unlike a handle, never given to another stream
    check(cudaStreamGetId(stream, &id), "counters");
    Region& own = of_stream_[{device, id}];
    if (own.count < count) own = fresh(device, count);
    return own.data;
  }

 private:
  // Counters that a graph has, with whatever is instantiated from it.
  struct Lent {
    int device;
    Region region;
  };

  uint32_t* of_graph(int device, int64_t count, cudaGraph_t graph) {
    auto lent = std::make_unique<Lent>(Lent{device, returned(device, count)});
    cudaUserObject_t object = nullptr;
    check(cudaUserObjectCreate(&object, lent.get(), &give_back, 1, cudaUserObjectNoDestructorSync),
          "counters");
    uint32_t* data = lent.release()->region.data;
    check(cudaGraphRetainUserObject(graph, object, 1, cudaGraphUserObjectMove), "counters");
    return data;
  }

  // Called by CUDA, when the last replay is over: every kernel has left its counters zero.
  static void CUDART_CB give_back(void* object) {
    const std::unique_ptr<Lent> lent(static_cast<Lent*>(object));
    Counters& counters = all();
    const std::lock_guard<std::mutex> lock(counters.mutex_);
    counters.returned_[lent->device].push_back(lent->region);
  }

  Region returned(int device, int64_t count) {
    std::vector<Region>& regions = returned_[device];
    const auto fits = std::find_if(regions.begin(), regions.end(),
                                   [&](const Region& region) { return region.count >= count; });
    if (fits == regions.end()) return fresh(device, count);
    const Region region = *fits;
    regions.erase(fits);
    return region;
  }

  Region fresh(int device, int64_t count) {
    Region& left = left_[device];
    if (left.count < count) left = zeroed(std::max(count, kSlabCounters));
    const Region taken{left.data, count};
    left = {left.data + count, left.count - count};
    return taken;
  }

  std::mutex mutex_;
  std::map<int, Region> left_;
  std::map<int, std::vector<Region>> returned_;
  std::map<std::pair<int, unsigned long long>, Region> of_stream_;
};

}  // namespace

uint32_t* counters(int64_t count, Stream stream) { return Counters::all().take(count, stream); }

}  // namespace sparrow::cuda
