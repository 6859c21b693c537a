// What a model keeps of a text while it generates.
//
//     KvCache cache = model.make_cache(capacity);
//     auto out = model.forward(tape, model.pass(batch, cache));
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "core/tensor.h"

namespace limbeck::nn {

using core::MemoryPtr;
using core::Tensor;

/// Keys and values of the tokens seen so far, of one sequence; a model fills it as it generates.
class KvCache {
 public:
  /// Room for `capacity` tokens in each of `num_layers` layers; key_width = G*D, value_width = G*Dv, G of this rank.
  KvCache(const MemoryPtr& memory, core::DType dtype, std::int64_t num_layers, std::int64_t capacity,
          std::int64_t key_width, std::int64_t value_width);
  std::int64_t length() const { return length_; }
  std::int64_t capacity() const { return capacity_; }
  /// Writes the rows of new tokens behind those of this layer and returns all of them, [length + T, ...].
  std::pair<Tensor, Tensor> append(std::int64_t layer, const Tensor& keys, const Tensor& values);
  /// The T new tokens are in every layer.
  void advance(std::int64_t num_tokens) { length_ += num_tokens; }

 private:
  std::vector<Tensor> keys_, values_;  // one a layer
  std::int64_t length_ = 0;
  std::int64_t capacity_;
};

}  // namespace limbeck::nn
