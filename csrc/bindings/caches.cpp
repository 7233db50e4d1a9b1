#include "bindings/caches.h"

#include <algorithm>
#include <limits>
#include <mutex>
#include <string>
#include <unordered_map>
#include <utility>

#include "bindings/library.h"

namespace sparrow::bindings {
namespace {

constexpr int64_t kLongest = std::numeric_limits<int32_t>::max();

void check_like_first(const Arguments& arguments, const char* argument, const Tensor& tensor,
                      const Tensor& first, Shape sizes, Shape strides) {
  arguments.check(argument, tensor, first.scalar_type(), sizes);
  const Shape own = tensor.strides();
  for (size_t d = 0; d < 3; ++d) {
    if (sizes[d] > 1 && own[d] != strides[d]) {
      arguments.refuse(argument, "of the strides " + text(strides) + " of the first layer's keys",
                       text(own));
    }
  }
}

// Numbers are never used again: one that has been let go of is refused.
class Register {
 public:
  static Register& all() {
    static Register& all = *new Register;  // tensors may be let go of at the very end
    return all;
  }

  int64_t add(std::shared_ptr<const BoundCaches> caches) {
    const std::lock_guard<std::mutex> lock(mutex_);
    bound_.emplace(++last_, std::move(caches));
    return last_;
  }

  std::shared_ptr<const BoundCaches> find(int64_t number) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = bound_.find(number);
    return found == bound_.end() ? nullptr : found->second;
  }

  void remove(int64_t number) {
    std::shared_ptr<const BoundCaches> last;  // whose tensors end when the lock is free again
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = bound_.find(number);
    if (found == bound_.end()) return;
    last = std::move(found->second);
    bound_.erase(found);
  }

 private:
  std::mutex mutex_;
  std::unordered_map<int64_t, std::shared_ptr<const BoundCaches>> bound_;
  int64_t last_ = 0;
};

}  // namespace

Caches::Caches(const Arguments& arguments, const TensorList& keys, const TensorList& values) {
  if (keys.size() != values.size()) {
    arguments.refuse("values", "as many tensors as keys", std::to_string(values.size()));
  }
  num_layers = static_cast<int64_t>(keys.size());
  of.rows.pages.block_size = kLongest;
  if (keys.empty()) return;
  const Tensor& first = keys[0];
  arguments.check_layout("keys", first, {kAny, kAny, kAny, kAny});
  const int64_t element = static_cast<int64_t>(first.element_size());
  of.rows.pages.num_blocks = first.size(0);
  of.rows.pages.block_size = std::min(first.size(2), kLongest);
  of.rows.block_stride = first.stride(0) * element;
  of.rows.slot_stride = first.stride(2) * element;
  of.heads = first.size(1);
  of.head_stride = first.stride(1) * element;
  of.row_bytes = first.size(3) * element;
  tensors.reserve(2 * keys.size());
  for (const TensorList* list : {&keys, &values}) {
    for (const Tensor& tensor : *list) {
      check_like_first(arguments, list == &keys ? "keys" : "values", tensor, first, first.sizes(),
                       first.strides());
      tensors.push_back(data<char>(tensor));
    }
  }
  of.tensors = tensors;
}

CacheBatch Caches::for_requests(const Arguments& arguments, int64_t batch,
                                const OptionalTensor& block_table) const {
  CacheBatch cache = of;
  const Pages& blocks = of.rows.pages;
  cache.batch = batch;
  cache.rows.pages = pages_of(arguments, block_table, batch, blocks.num_blocks, blocks.block_size);
  if (num_layers > 0 && !block_table && blocks.num_blocks != batch) {
    arguments.refuse("keys", text({batch, kAny, kAny, kAny}),
                     text({blocks.num_blocks, kAny, kAny, kAny}));
  }
  return cache;
}

bool Caches::may_overlap(const Tensor& other) const {
  const Pages& pages = of.rows.pages;
  if (pages.num_blocks == 0 || pages.block_size == 0 || of.heads == 0) return false;
  const int64_t size = (pages.num_blocks - 1) * of.rows.block_stride +
                       (of.heads - 1) * of.head_stride +
                       (pages.block_size - 1) * of.rows.slot_stride + of.row_bytes;
  const char* const begin = data<const char>(other);
  const char* const end = begin + extent(other);
  return std::any_of(tensors.begin(), tensors.end(),
                     [&](const char* cache) { return begin < cache + size && cache < end; });
}

BoundCaches::BoundCaches(TensorList keys, TensorList values)
    : keys_(std::move(keys)),
      values_(std::move(values)),
      caches_(Arguments("bind_caches", keys_.at(0)), keys_, values_) {
  std::copy_n(keys_[0].sizes().begin(), 4, sizes_.begin());
  std::copy_n(keys_[0].strides().begin(), 4, strides_.begin());
}

bool BoundCaches::are_as_bound(const Arguments& arguments) const {
  const auto has = [](Shape own, const std::array<int64_t, 4>& bound) {
    return std::equal(own.begin(), own.end(), bound.begin(), bound.end());
  };
  char* const* address = caches_.tensors.data();
  for (const TensorList* list : {&keys_, &values_}) {
    for (const Tensor& tensor : *list) {
      if (data<char>(tensor) != *address++ || !has(tensor.sizes(), sizes_) ||
          !has(tensor.strides(), strides_)) {
        return false;
      }
    }
  }
  return true;
}

const Caches& BoundCaches::now(const Arguments& arguments, std::unique_ptr<Caches>* own) const {
  arguments.check_device("keys", keys_[0]);
  if (are_as_bound(arguments)) return caches_;
  *own = std::make_unique<Caches>(arguments, keys_, values_);
  return **own;
}

std::shared_ptr<const BoundCaches> bound_caches(const Arguments& arguments, int64_t number) {
  auto found = Register::all().find(number);
  if (found == nullptr) arguments.refuse("keys", "caches that are bound", std::to_string(number));
  return found;
}

Pages pages_of(const Arguments& arguments, const OptionalTensor& block_table, int64_t batch,
               int64_t num_blocks, int64_t block_size) {
  Pages pages;
  pages.num_blocks = num_blocks;
  pages.block_size = std::min(block_size, kLongest);
  if (block_table) {
    arguments.check("block_table", *block_table, ScalarType::Int, {batch, kAny});
    pages.table = rows<const int32_t>(*block_table);
    pages.num_pages = block_table->size(1);
    // A table without entries has no memory, and none is read: its requests have no slots.
    static const int32_t none = -1;
    if (pages.table.data == nullptr) pages.table.data = &none;
  }
  return pages;
}

PrefixLens prefix_lens_of(const Arguments& arguments, const Tensor& prefix_lens, int64_t batch,
                          int64_t num_layers, bool advanced) {
  int32_t* const lens = data<int32_t>(prefix_lens);
  if (prefix_lens.dim() != 2) {
    arguments.check("prefix_lens", prefix_lens, ScalarType::Int, {batch});
    return {lens, 1, 0};
  }
  arguments.check("prefix_lens", prefix_lens, ScalarType::Int, {num_layers, batch});
  if (advanced && num_layers > 1 && batch > 0 && prefix_lens.stride(0) < batch) {
    arguments.refuse("prefix_lens", "a row of its own for each layer", text(prefix_lens.strides()));
  }
  return {lens, num_layers, prefix_lens.stride(0)};
}

namespace {

int64_t bind_caches(const TensorList& keys, const TensorList& values) {
  if (keys.empty()) throw std::invalid_argument("bind_caches: keys must be one layer or more");
  return Register::all().add(std::make_shared<const BoundCaches>(keys, values));
}

// `any` says on which device, since an op is found by a tensor.
void unbind_caches(const Tensor& any, int64_t number) { Register::all().remove(number); }

}  // namespace

SPARROW_IMPLEMENT(caches, library) {
  library.impl("bind_caches", TORCH_BOX(&bind_caches));
  library.impl("unbind_caches", TORCH_BOX(&unbind_caches));
}

}  // namespace sparrow::bindings
