#include <algorithm>
#include <map>
#include <mutex>
#include <utility>

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

// All counters of the process.
class Counters {
 public:
  uint32_t* take(int64_t count, Stream stream) {
    int device = 0;
    check(cudaGetDevice(&device), "counters");
    cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
    check(cudaStreamIsCapturing(stream, &capture), "counters");
    const std::lock_guard<std::mutex> lock(mutex_);
    if (capture != cudaStreamCaptureStatusNone) return fresh(device, count).data;
    unsigned long long id = 0;  // unlike a handle, never given to another stream
    check(cudaStreamGetId(stream, &id), "counters");
    Region& own = of_stream_[{device, id}];
    if (own.count < count) own = fresh(device, count);
    return own.data;
  }

 private:
  Region fresh(int device, int64_t count) {
    Region& left = left_[device];
    if (left.count < count) left = zeroed(std::max(count, kSlabCounters));
    const Region taken{left.data, count};
    left = {left.data + count, left.count - count};
    return taken;
  }

  std::mutex mutex_;
  std::map<int, Region> left_;
  std::map<std::pair<int, unsigned long long>, Region> of_stream_;
};

}  // namespace

uint32_t* counters(int64_t count, Stream stream) {
  static Counters all;
  return all.take(count, stream);
}

}  // namespace sparrow::cuda
