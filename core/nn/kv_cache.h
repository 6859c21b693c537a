// What a model keeps of texts while it generates: keys and values in pages of 64 tokens, from a pool that grows with
// what the texts need together, and of state-space layers a state a text. A text that ends gives its pages back.
//
//     KvCache cache = model.make_cache(num_slots);
//     auto out = model.forward(tape, model.pass(batch, cache, {0, 2}));   // two sequences go on in slots 0 and 2
//     cache.clear(2);                                                     // another text may have it, and its pages
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "core/tensor.h"
#include "kernels/attention.h"

namespace limbeck::nn {

using core::MemoryPtr;
using core::Tensor;

/// New tokens, rows [first, first + count) of a batch, that go behind those which a slot holds.
struct CacheRun {
  std::int64_t slot = 0;
  std::int64_t first = 0;
  std::int64_t count = 0;
};

/// What is kept of a layer: numbers of a token, and tensors of a text as a whole.
struct CacheLayer {
  struct State {
    core::Shape shape;
    bool is_sum = false;  // of the dtype of sums
  };
  std::int64_t key_width = 0, value_width = 0;  // G*D and G*Dv, G of this rank
  std::vector<State> states = {};
};

/// Keys and values of the tokens seen so far, a text in each slot; a model fills it as it generates.
class KvCache {
 public:
  static constexpr std::int64_t page_tokens = kernels::attention_page;

  /// Without pages yet, and states of zeros; all of `dtype` but states that are sums.
  KvCache(const MemoryPtr& memory, core::DType dtype, std::span<const CacheLayer> layers, std::int64_t num_slots);
  std::int64_t num_slots() const { return static_cast<std::int64_t>(slots_.size()); }
  std::int64_t length(std::int64_t slot) const { return at(slot).length; }
  /// Of a slot, in the order of its tokens: token i is row pages[i / 64] * 64 + i % 64 of a layer.
  std::span<const std::int64_t> pages(std::int64_t slot) const { return at(slot).pages; }
  std::int64_t num_pages() const { return num_pages_; }  // of the pool
  std::int64_t num_free_pages() const { return static_cast<std::int64_t>(free_.size()); }

  /// Pages for as many tokens in all; where none is free, the pool grows by half.
  void make_room(std::int64_t slot, std::int64_t tokens);
  /// Writes the rows of new tokens behind those of this layer and returns those of the pool, [num_pages * 64, ...].
  /// There has to be room for them.
  std::pair<Tensor, Tensor> append(std::int64_t layer, std::span<const CacheRun> runs, const Tensor& keys,
                                   const Tensor& values);
  /// One of a layer's states of all slots, [num_slots,...], which the layer writes itself.
  const Tensor& state(std::int64_t layer, std::size_t which) const;
  /// The new tokens are in every layer.
  void advance(std::span<const CacheRun> runs);
  /// The slot holds its first tokens alone; the pages of others go back. Throws where some go and some stay beside
  /// states, which know of all tokens.
  void truncate(std::int64_t slot, std::int64_t length);
  /// What the slot holds now is what it may go back to, states included,
  void keep(std::int64_t slot);
  /// and this goes back to it.
  void go_back(std::int64_t slot);
  /// The slot holds nothing.
  void clear(std::int64_t slot);

 private:
  struct Slot {
    std::int64_t length = 0;
    std::int64_t kept = 0;  // tokens that it may go back to
    std::vector<std::int64_t> pages = {};
  };
  const Slot& at(std::int64_t slot) const { return slots_.at(static_cast<std::size_t>(slot)); }
  Slot& at(std::int64_t slot) { return slots_.at(static_cast<std::size_t>(slot)); }
  void grow(std::int64_t pages);
  bool has_states() const;
  void shorten(Slot& slot, std::int64_t length);

  std::vector<Tensor> keys_, values_;        // one a layer
  std::vector<std::vector<Tensor>> states_;  // likewise, [num_slots,...] each,
  std::vector<std::vector<Tensor>> kept_;    // and as they were
  std::vector<Slot> slots_;
  std::vector<std::int64_t> free_;  // pages; the last is taken next
  std::int64_t num_pages_ = 0;
};

}  // namespace limbeck::nn
