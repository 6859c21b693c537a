#include "core/nn/kv_cache.h"

namespace limbeck::nn {

KvCache::KvCache(const MemoryPtr& memory, core::DType dtype, std::int64_t num_layers, std::int64_t capacity,
                 std::int64_t key_width, std::int64_t value_width)
    : capacity_(capacity) {
  for (std::int64_t i = 0; i < num_layers; ++i) {
    keys_.push_back(Tensor::empty(memory, dtype, {capacity, key_width}));
    values_.push_back(Tensor::empty(memory, dtype, {capacity, value_width}));
  }
}

std::pair<Tensor, Tensor> KvCache::append(std::int64_t layer, const Tensor& keys, const Tensor& values) {
  const std::int64_t n = keys.shape()[0];
  core::check(length_ + n <= capacity_, "cache: {} tokens behind {} exceed its capacity of {}", n, length_, capacity_);
  const auto i = static_cast<std::size_t>(layer);
  keys_.at(i).rows(length_, n).copy_from(keys);
  values_.at(i).rows(length_, n).copy_from(values);
  return {keys_[i].rows(0, length_ + n), values_[i].rows(0, length_ + n)};
}

}  // namespace limbeck::nn
