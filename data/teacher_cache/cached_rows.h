// What a teacher cache keeps of a teacher's distributions: which part of each, and the rows of one document.
//
//     CacheContents contents{.kind = CacheKind::TopK, .kept = 64, .vocabulary = 49152};
//     CachedRows rows;
//     rows.resize(num_positions, contents);
//     RowsMaker(contents).make(logits, target, document_key(tokens), /*position=*/7, rows, 7);      // logits [V]
//     rows.log_p[i * rows.width + j];                                         // of token rows.ids[i * rows.width + j]
#pragma once

#include <compare>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

namespace limbeck::data {

/// A document by what it says: XXH3, 128 bits, of its tokens as they stand in the token file.
struct DocumentKey {
  std::uint64_t high = 0;
  std::uint64_t low = 0;
  auto operator<=>(const DocumentKey&) const = default;
};
DocumentKey document_key(std::span<const std::int32_t> tokens);

enum class CacheKind : std::uint8_t {
  TopK,     // the likeliest tokens, and the probability of all others together
  Sampled,  // tokens drawn by their probability, with replacement, and how often each was
  Full,     // all tokens
};
std::string_view name_of(CacheKind kind);  // "TOP_K"

struct CacheContents {
  CacheKind kind = CacheKind::TopK;
  std::int64_t kept = 64;                  // tokens of TopK, draws of Sampled
  bool quantised = true;                   // log-probabilities by steps of 1/255 of their row's range; else as float32
  std::vector<double> temperatures = {1};  // that the normalisation is kept for: 1 and others, rising, each once
  std::int64_t vocabulary = 0;             // tokens that count; those behind them are padding
  /// Layers whose hidden states are kept too, rising, of so many channels: bfloat16, or float32 where not quantised.
  /// Not of Full.
  std::vector<std::int64_t> hidden_layers = {};
  std::int64_t hidden_width = 0;

  /// The place of a temperature among them; nothing for one that nothing is kept for.
  std::optional<std::size_t> place_of(double temperature) const;
  /// Entries of a row, at most.
  std::int64_t width() const;
  /// Numbers of a row's hidden states.
  std::int64_t hidden_size() const { return std::ssize(hidden_layers) * hidden_width; }
  /// Rows that are stored together.
  std::int64_t rows_of_block() const;
  /// Throws a UsageError that names what cannot be.
  void check_valid() const;
  bool operator==(const CacheContents&) const = default;
};

inline constexpr std::int64_t most_cached_vocabulary = std::int64_t{1} << 24U;
inline constexpr std::int64_t most_hidden_layers = 4096, most_hidden_width = std::int64_t{1} << 17U;

/// Rows of consecutive positions of one document: row i is what the teacher says after token first + i.
struct CachedRows {
  std::int64_t n = 0;
  std::int64_t width = 0;
  std::vector<std::int32_t> ids;  // [n,width], rising within a row; -1 behind a row's last
  std::vector<float> log_p;       // [n,width] at temperature 1, up to a number that a row has in common; of Sampled
                                  // the share of the draws. 0 behind the last
  std::vector<std::int32_t> likeliest;  // [n]: the lowest id of the greatest logit
  std::vector<float> target_loss;       // [n]: -log p(target), the teacher's own cross-entropy
  /// [temperatures,n]: of TopK and Full the logarithm of the probability of what is not kept, -infinity for none; of
  /// Sampled the distribution's entropy.
  std::vector<float> rest;
  std::int64_t hidden_size = 0;
  std::vector<float> hidden;  // [n,hidden_size]: of each kept layer what it gives after the token

  float rest_at(std::size_t temperature, std::int64_t row) const { return rest[temperature * n + row]; }
  /// Room for so many rows.
  void resize(std::int64_t rows, const CacheContents& contents);
  /// Rows [at, at + count) become rows [first, first + count) of others of the same contents.
  void copy(const CachedRows& from, std::int64_t first, std::int64_t count, std::int64_t at);
};

/// Log-probabilities [width] of a row's kept tokens at a stored temperature: softmax(log_p / T) over them, times what
/// is not in the rest, so that kept and rest are 1 whatever was rounded. Of TopK and Full.
void log_probabilities_at(const CachedRows& rows, std::int64_t row, const CacheContents& contents,
                          std::size_t temperature, std::span<float> out);

/// Makes rows of logits. One thread at a time.
class RowsMaker {
 public:
  explicit RowsMaker(CacheContents contents);

  /// Writes row i of `rows`. logits [V or more]; draws depend on document, position and vocabulary alone. Throws where
  /// the logits have no finite sum.
  void make(std::span<const float> logits, std::int32_t target, const DocumentKey& document, std::int64_t position,
            CachedRows& rows, std::int64_t i);

 private:
  void keep_likeliest(std::span<const float> logits);
  void draw(std::span<const float> logits, double log_sum, const DocumentKey& document, std::int64_t position);

  CacheContents contents_;
  std::vector<float> maxima_;
  std::vector<std::int32_t> candidates_;
  std::vector<std::int32_t> ids_;     // that are kept, rising
  std::vector<std::int32_t> counts_;  // of Sampled
  std::vector<double> cumulative_;    // of Sampled
};

}  // namespace limbeck::data
