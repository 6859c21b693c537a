// What a token file holds, in one pass over it.
//
//     TokenStatistics statistics = token_statistics(TokenFile("data/train"));
//     fmt::print("{} of {} ids, the longest document has {} tokens\n", statistics.ids_used, vocabulary,
//                statistics.longest);
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "data/text/token_file.h"

namespace limbeck::data {

struct TokenStatistics {
  /// An id and how often it occurs.
  using Count = std::pair<std::int32_t, std::int64_t>;
  /// Documents of [2^(i-1), 2^i) tokens, element 0 those of none.
  std::vector<std::int64_t> length_histogram;
  std::int64_t shortest = 0;
  std::int64_t median = 0;  // lower, as the next two: the length at that share of the sorted documents
  std::int64_t p90 = 0;
  std::int64_t p99 = 0;
  std::int64_t longest = 0;
  double mean = 0;

  std::int64_t ids_used = 0;
  std::int32_t least_id = 0;
  std::int32_t greatest_id = 0;
  std::vector<Count> most_frequent;  // at most ten, the most frequent first, equal ones by id
  Count last{};                      // the commonest last token of a document, and the documents that end with it
  std::int64_t last_in_all = 0;      // how often that token occurs anywhere
};

/// All zero for a file without tokens. Throws, naming document and token, for a negative token and for one of 2^24 or
/// more, which is beyond any vocabulary.
TokenStatistics token_statistics(const TokenFile& file);

}  // namespace limbeck::data
