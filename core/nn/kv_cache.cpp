#include "core/nn/kv_cache.h"

#include <algorithm>
#include <iterator>

namespace limbeck::nn {

KvCache::KvCache(const MemoryPtr& memory, core::DType dtype, std::span<const CacheLayer> layers, std::int64_t num_slots)
    : slots_(static_cast<std::size_t>(num_slots)) {
  for (const CacheLayer& layer : layers) {
    keys_.push_back(Tensor::empty(memory, dtype, {0, layer.key_width}));
    values_.push_back(Tensor::empty(memory, dtype, {0, layer.value_width}));
    std::vector<Tensor>& states = states_.emplace_back();
    for (const auto& [of_text, is_sum] : layer.states) {
      std::vector<std::int64_t> extents = {num_slots};
      extents.insert(extents.end(), of_text.extents().begin(), of_text.extents().end());
      states.push_back(Tensor::zeros(memory, is_sum ? core::sum_dtype(dtype) : dtype, core::Shape(std::span(extents))));
    }
    kept_.emplace_back(states.size());
  }
}

const Tensor& KvCache::state(std::int64_t layer, std::size_t which) const {
  return states_.at(static_cast<std::size_t>(layer)).at(which);
}

bool KvCache::has_states() const {
  return std::ranges::any_of(states_, [](const auto& of_layer) { return !of_layer.empty(); });
}

void KvCache::grow(std::int64_t pages) {
  const std::int64_t rows = num_pages_ * page_tokens;
  for (std::vector<Tensor>* const layers : {&keys_, &values_})
    for (Tensor& layer : *layers) {
      Tensor larger =
          Tensor::empty(layer.memory(), layer.dtype(), {rows + pages * page_tokens, layer.shape().row_size()});
      larger.rows(0, rows).copy_from(layer);
      layer = std::move(larger);
    }
  for (std::int64_t i = pages; i > 0; --i) free_.push_back(num_pages_ + i - 1);
  num_pages_ += pages;
}

void KvCache::make_room(std::int64_t slot, std::int64_t tokens) {
  std::vector<std::int64_t>& pages = at(slot).pages;
  const std::int64_t missing = (tokens + page_tokens - 1) / page_tokens - std::ssize(pages);
  if (missing > num_free_pages()) grow(std::max(missing - num_free_pages(), num_pages_ / 2));
  for (std::int64_t i = 0; i < missing; ++i) {
    pages.push_back(free_.back());
    free_.pop_back();
  }
}

std::pair<Tensor, Tensor> KvCache::append(std::int64_t layer, std::span<const CacheRun> runs, const Tensor& keys,
                                          const Tensor& values) {
  const auto i = static_cast<std::size_t>(layer);
  for (const auto& [slot, first, count] : runs)
    for (std::int64_t done = 0; done < count;) {  // page by page
      const std::int64_t token = length(slot) + done;
      const std::int64_t part = std::min(count - done, page_tokens - token % page_tokens);
      const std::int64_t row =
          pages(slot)[static_cast<std::size_t>(token / page_tokens)] * page_tokens + token % page_tokens;
      keys_.at(i).rows(row, part).copy_from(keys.rows(first + done, part));
      values_.at(i).rows(row, part).copy_from(values.rows(first + done, part));
      done += part;
    }
  return {keys_.at(i), values_.at(i)};
}

void KvCache::advance(std::span<const CacheRun> runs) {
  for (const auto& run : runs) at(run.slot).length += run.count;
}

void KvCache::shorten(Slot& slot, std::int64_t length) {
  slot.length = length;
  const auto first = slot.pages.begin() + (length + page_tokens - 1) / page_tokens;
  free_.insert(free_.end(), slot.pages.rbegin(), std::make_reverse_iterator(first));
  slot.pages.erase(first, slot.pages.end());
}

void KvCache::truncate(std::int64_t slot, std::int64_t length) {
  Slot& kept = at(slot);
  core::check(length >= 0 && length <= kept.length, "cache: {} tokens are to stay of {} in slot {}", length,
              kept.length, slot);
  core::check(length == 0 || length == kept.length || !has_states(),
              "cache: {} tokens are to stay of {} in slot {}, expected all or none beside states", length, kept.length,
              slot);
  if (length == 0) {
    kept.kept = 0;
    for (const auto& of_layer : states_)
      for (const Tensor& state : of_layer) state.rows(slot, 1).fill_zero();
  }
  shorten(kept, length);
}

void KvCache::keep(std::int64_t slot) {
  at(slot).kept = at(slot).length;
  for (std::size_t layer = 0; layer < states_.size(); ++layer)
    for (std::size_t i = 0; i < states_[layer].size(); ++i) {
      const Tensor& state = states_[layer][i];
      Tensor& kept = kept_[layer][i];
      if (!kept.defined()) kept = Tensor::zeros(state.memory(), state.dtype(), state.shape());
      kept.rows(slot, 1).copy_from(state.rows(slot, 1));
    }
}

void KvCache::go_back(std::int64_t slot) {
  Slot& own = at(slot);
  core::check(own.kept <= own.length, "cache: slot {} has {} tokens, it is to go back to {}", slot, own.length,
              own.kept);
  if (own.kept == 0) return clear(slot);
  for (std::size_t layer = 0; layer < states_.size(); ++layer)
    for (std::size_t i = 0; i < states_[layer].size(); ++i)
      states_[layer][i].rows(slot, 1).copy_from(kept_[layer][i].rows(slot, 1));
  shorten(own, own.kept);
}

void KvCache::clear(std::int64_t slot) { truncate(slot, 0); }

}  // namespace limbeck::nn
