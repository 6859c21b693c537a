#include "core/nn/kv_cache.h"

namespace limbeck::nn {

KvCache::KvCache(const MemoryPtr& memory, core::DType dtype, std::int64_t num_layers, std::int64_t num_slots,
                 std::int64_t capacity, std::int64_t key_width, std::int64_t value_width)
    : lengths_(static_cast<std::size_t>(num_slots), 0), capacity_(capacity) {
  for (std::int64_t i = 0; i < num_layers; ++i) {
    keys_.push_back(Tensor::empty(memory, dtype, {num_slots * capacity, key_width}));
    values_.push_back(Tensor::empty(memory, dtype, {num_slots * capacity, value_width}));
  }
}

std::pair<Tensor, Tensor> KvCache::append(std::int64_t layer, std::span<const CacheRun> runs, const Tensor& keys,
                                          const Tensor& values) {
  const auto i = static_cast<std::size_t>(layer);
  for (const auto& [slot, first, count] : runs) {
    const std::int64_t row = slot * capacity_ + length(slot);
    keys_.at(i).rows(row, count).copy_from(keys.rows(first, count));
    values_.at(i).rows(row, count).copy_from(values.rows(first, count));
  }
  return {keys_.at(i), values_.at(i)};
}

void KvCache::advance(std::span<const CacheRun> runs) {
  for (const auto& run : runs) lengths_.at(static_cast<std::size_t>(run.slot)) += run.count;
}

}  // namespace limbeck::nn
