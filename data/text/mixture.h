// Several token files as one text: each sample of a run comes from one of them, in proportion to their weights. Sample
// number i is a function of seed and i alone, as with one loader; with one source it is that loader's sample.
//
//     Mixture mixture({{web, 0.7}, {books, 0.3}}, {.sequence_length = 256, .vocabulary = 49152, .seed = 1});
//     TokenBatch batch = mixture.fetch(/*first_sample=*/next_sample, /*count=*/10);      // 7 of web, 3 of books
//     TokenBatch held_out = mixture.held_out_batch(mixture.num_held_out_sequences());    // likewise
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "data/text/loader.h"

namespace limbeck::data {

/// Which source each sample comes from. Of the first n samples source d has n * share(d), to less than one sample, for
/// every n: Tijdeman's rule ("The chairman assignment problem", Discrete Mathematics 32, 1980). Weights become whole
/// parts of at most about 10^6, exactly where they have six decimals or less; after so many samples all repeats, so any
/// place is found at once.
class MixtureSchedule {
 public:
  static constexpr std::size_t most_sources = 256;

  /// Throws a UsageError for no weight, too many, and one that is not a positive number.
  explicit MixtureSchedule(std::span<const double> weights);

  std::size_t source_of(std::int64_t sample) const { return source_of_[sample % period()]; }
  /// How many of the samples [0, end) are of the source: the index of its next sample.
  std::int64_t count(std::size_t source, std::int64_t end) const;
  double share(std::size_t source) const {
    return static_cast<double>(places_[source].size()) / static_cast<double>(period());
  }
  std::int64_t period() const { return static_cast<std::int64_t>(source_of_.size()); }

 private:
  std::vector<std::uint8_t> source_of_;            // [period]
  std::vector<std::vector<std::int32_t>> places_;  // of each source's samples in the period, rising
};

struct MixtureSource {
  std::shared_ptr<const TokenFile> file;
  double weight = 1;
};

class Mixture {
 public:
  /// Each source is shuffled, and its held-out documents chosen, on its own. Throws as MixtureSchedule and Loader do.
  Mixture(const std::vector<MixtureSource>& sources, const LoaderOptions& options);

  /// As Loader::fetch; a source that comes to its end begins its next epoch.
  TokenBatch fetch(std::int64_t first_sample, std::int64_t count);
  /// As Loader::num_targets.
  std::int64_t num_targets(std::int64_t first_sample, std::int64_t count);
  std::int64_t sequence_length() const { return loaders_.front().sequence_length(); }
  bool has_pairs() const { return loaders_.front().has_pairs(); }
  /// As Loader::longest_pair.
  std::int64_t longest_pair(std::int64_t first_sample, std::int64_t count);

  /// Held-out sequences that there are in proportion to the weights. A source whose held-out documents do not fill a
  /// sequence has no part in it.
  std::int64_t num_held_out_sequences() const;
  /// The first `num_sequences` of those, always the same; throws where there are fewer.
  TokenBatch held_out_batch(std::int64_t num_sequences) const;
  /// Which source each of those sequences is of.
  std::vector<std::size_t> held_out_sources(std::int64_t num_sequences) const;

  /// How often each token would occur in a text of tokens_per_epoch() tokens in proportion to the weights: [V].
  std::vector<std::int64_t> unigram_counts() const;

  /// Of the token files and their shares of the samples; with one source that of its token file.
  std::uint64_t fingerprint() const;

  std::int64_t num_train_documents() const;
  std::int64_t num_held_out_documents() const;
  /// Of all sources, once through each.
  std::int64_t tokens_per_epoch() const;
  const std::vector<Loader>& sources() const { return loaders_; }
  const MixtureSchedule& schedule() const { return schedule_; }

 private:
  MixtureSchedule schedule_;
  std::vector<Loader> loaders_;
  std::vector<std::size_t> measured_;                 // sources with held-out sequences
  std::optional<MixtureSchedule> held_out_schedule_;  // of those
};

}  // namespace limbeck::data
