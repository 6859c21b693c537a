#include "tests/cuda_emulation/races/stream_order.h"

#include <fmt/format.h>

#include <algorithm>

namespace limbeck::emulation {

void merge(Clock& into, const Clock& from) {
  for (const auto& [stream, number] : from) {
    std::uint64_t& known = into[stream];
    known = std::max(known, number);
  }
}

void keep_common(Clock& clock, const Clock& other) {
  for (auto& [stream, number] : clock) {
    const auto found = other.find(stream);
    number = std::min(number, found == other.end() ? 0 : found->second);
  }
}

void Footprint::add(const std::vector<MemoryRange>& ranges, bool written) {
  for (const MemoryRange& range : ranges) {
    const auto begin = reinterpret_cast<std::uintptr_t>(range.begin);
    for (std::uintptr_t word = begin / 4; word * 4 < begin + range.bytes; ++word) {
      Page& page = pages_[word / words_of_page];
      (written ? page.written : page.read).set(word % words_of_page);
    }
  }
}

const void* Footprint::conflict_with(const Footprint& other) const {
  for (const auto& [number, page] : pages_) {
    const auto found = other.pages_.find(number);
    if (found == other.pages_.end()) continue;
    const Page& its = found->second;
    const auto both = (page.written & (its.read | its.written)) | (page.read & its.written);
    for (std::size_t i = 0; both.any() && i < both.size(); ++i)
      if (both[i]) return reinterpret_cast<const void*>((number * words_of_page + i) * 4);
  }
  return nullptr;
}

std::string StreamOrder::note(std::uint64_t stream, const Clock& clock, Footprint footprint,
                              const std::function<std::string()>& what) {
  for (const Past& past : past_) {
    if (past.stream == stream) continue;
    if (const auto known = clock.find(past.stream); known != clock.end() && known->second >= past.number) continue;
    if (const void* where = footprint.conflict_with(past.footprint); where != nullptr)
      return fmt::format("{} on stream {} and {} on stream {} touch the memory at {}, and nothing orders them", what(),
                         stream, past.what(), past.stream, where);
  }
  num_pages_ += footprint.num_pages();
  past_.push_back({stream, clock.at(stream), std::move(footprint), what});
  for (; num_pages_ > max_pages; past_.pop_front()) num_pages_ -= past_.front().footprint.num_pages();
  return "";
}

void StreamOrder::forget(const Clock& known) {
  std::erase_if(past_, [&](const Past& past) {
    const auto found = known.find(past.stream);
    const bool is_known = found != known.end() && found->second >= past.number;
    if (is_known) num_pages_ -= past.footprint.num_pages();
    return is_known;
  });
}

}  // namespace limbeck::emulation
