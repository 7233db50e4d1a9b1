// What keys and values in pages cost a CPU that does next to nothing else: their rows are read once,
// in order or page by page as a table says. Compiled and called by page_floor.py.

namespace {

constexpr int kWidth = 32;  // floats of a row
constexpr int kHeads = 2;   // query heads of a KV head

}  // namespace

// `key` and `value`: [pages, kv_heads, page, kWidth]. `table`: [pages], or null for their order.
extern "C" float walk(const float* key, const float* value, const int* table, long pages,
                      long kv_heads, long page) {
  float sums[kHeads][kWidth] = {};
  for (long head = 0; head < kv_heads; ++head) {
    for (long place = 0; place < pages; ++place) {
      const long first = ((table ? table[place] : place) * kv_heads + head) * page * kWidth;
      for (long row = first; row < first + page * kWidth; row += kWidth) {
        for (int one = 0; one < kHeads; ++one) {
          float score = 0.0F;
          for (int d = 0; d < kWidth; ++d) {
            score += key[row + d] * static_cast<float>(one + d);
          }
          for (int d = 0; d < kWidth; ++d) {
            sums[one][d] += score * value[row + d];
          }
        }
      }
    }
  }
  float total = 0.0F;
  for (auto& of_head : sums) {
    for (float each : of_head) {
      total += each;
    }
  }
  return total;
}

// The same of a cache in one piece, [kv_heads, slots, kWidth].
extern "C" float walk_whole(const float* key, const float* value, long kv_heads, long slots) {
  return walk(key, value, nullptr, kv_heads, 1, slots);
}
