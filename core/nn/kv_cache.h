// What a model keeps of texts while it generates.
//
//     KvCache cache = model.make_cache(num_slots, capacity);
//     auto out = model.forward(tape, model.pass(batch, cache, {0, 2}));   // two sequences go on in slots 0 and 2
//     cache.clear(2);                                                     // another text may have it
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "core/tensor.h"

namespace limbeck::nn {

using core::MemoryPtr;
using core::Tensor;

/// New tokens, rows [first, first + count) of a batch, that go behind those which a slot holds.
struct CacheRun {
  std::int64_t slot = 0;
  std::int64_t first = 0;
  std::int64_t count = 0;
};

/// Keys and values of the tokens seen so far, a text in each slot; a model fills it as it generates. Rows [slot *
/// capacity, slot * capacity + length(slot)) of a layer are those of a slot. Memory that no token has filled yet is
/// only reserved.
class KvCache {
 public:
  /// Room for `capacity` tokens a slot in each of `num_layers` layers; key_width = G*D, value_width = G*Dv, G of this
  /// rank.
  KvCache(const MemoryPtr& memory, core::DType dtype, std::int64_t num_layers, std::int64_t num_slots,
          std::int64_t capacity, std::int64_t key_width, std::int64_t value_width);
  std::int64_t num_slots() const { return static_cast<std::int64_t>(lengths_.size()); }
  std::int64_t capacity() const { return capacity_; }
  std::int64_t length(std::int64_t slot) const { return lengths_.at(static_cast<std::size_t>(slot)); }
  /// Writes the rows of new tokens behind those of this layer and returns those of all slots, [num_slots * capacity,
  /// ...]. That there is room for them, Transformer::pass has checked.
  std::pair<Tensor, Tensor> append(std::int64_t layer, std::span<const CacheRun> runs, const Tensor& keys,
                                   const Tensor& values);
  /// The new tokens are in every layer.
  void advance(std::span<const CacheRun> runs);
  /// The slot holds nothing.
  void clear(std::int64_t slot) { lengths_.at(static_cast<std::size_t>(slot)) = 0; }

 private:
  std::vector<Tensor> keys_, values_;  // one a layer
  std::vector<std::int64_t> lengths_;  // one a slot
  std::int64_t capacity_;
};

}  // namespace limbeck::nn
