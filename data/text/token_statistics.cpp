#include "data/text/token_statistics.h"

#include <algorithm>
#include <bit>

#include "core/error.h"

namespace limbeck::data {

namespace {

constexpr std::int64_t piece = 1 << 16;  // tokens at a time
constexpr std::int32_t most_ids = 1 << 24;
constexpr std::size_t num_frequent = 10;

using Counts = std::vector<std::int64_t>;

void count(Counts& counts, std::int32_t id, const TokenFile& file, std::int64_t document) {
  core::check(id >= 0 && id < most_ids, "{}.bin: document {} holds token {}, expected 0 to {}", file.prefix(), document,
              id, most_ids - 1);
  if (static_cast<std::size_t>(id) >= counts.size()) counts.resize(std::bit_ceil(static_cast<std::size_t>(id) + 1));
  ++counts[id];
}

void summarise_lengths(const TokenFile& file, TokenStatistics& result) {
  std::vector<std::int64_t> lengths;
  for (std::int64_t d = 0; d < file.num_documents(); ++d) {
    const std::int64_t length = file.document_length(d);
    lengths.push_back(length);
    const auto bucket = static_cast<std::size_t>(std::bit_width(static_cast<std::uint64_t>(length)));
    if (bucket >= result.length_histogram.size()) result.length_histogram.resize(bucket + 1);
    ++result.length_histogram[bucket];
  }
  if (lengths.empty()) return;
  std::sort(lengths.begin(), lengths.end());
  const auto at = [&](std::size_t percent) { return lengths[(lengths.size() - 1) * percent / 100]; };
  result.shortest = lengths.front();
  result.median = at(50);
  result.p90 = at(90);
  result.p99 = at(99);
  result.longest = lengths.back();
  result.mean = static_cast<double>(file.num_tokens()) / static_cast<double>(lengths.size());
}

void summarise_ids(const Counts& counts, const Counts& last, TokenStatistics& result) {
  std::vector<TokenStatistics::Count> used;
  for (std::size_t id = 0; id < counts.size(); ++id)
    if (counts[id] > 0) used.emplace_back(static_cast<std::int32_t>(id), counts[id]);
  if (used.empty()) return;
  result.ids_used = static_cast<std::int64_t>(used.size());
  result.least_id = used.front().first;
  result.greatest_id = used.back().first;
  const auto most = std::max_element(last.begin(), last.end());
  result.last = {static_cast<std::int32_t>(most - last.begin()), *most};
  result.last_in_all = counts[result.last.first];
  std::stable_sort(used.begin(), used.end(), [](const auto& a, const auto& b) { return a.second > b.second; });
  used.resize(std::min(used.size(), num_frequent));
  result.most_frequent = std::move(used);
}

}  // namespace

TokenStatistics token_statistics(const TokenFile& file) {
  TokenStatistics result;
  summarise_lengths(file, result);
  Counts counts;
  Counts last;
  std::vector<std::int32_t> ids(static_cast<std::size_t>(piece));
  for (std::int64_t d = 0; d < file.num_documents(); ++d) {
    const std::int64_t length = file.document_length(d);
    for (std::int64_t first = 0; first < length; first += piece) {
      const std::int64_t here = std::min(piece, length - first);
      file.read(d, first, here, ids.data());
      for (std::int64_t i = 0; i < here; ++i) count(counts, ids[i], file, d);
      if (first + here == length) count(last, ids[here - 1], file, d);
    }
  }
  summarise_ids(counts, last, result);
  return result;
}

}  // namespace limbeck::data
