#include "data/text/mixture.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "core/random.h"

namespace limbeck::data {

using core::check;
using core::fail_usage;

namespace {

constexpr double most_parts = 1e6;

/// The weights as whole numbers: times the least power of ten that makes all of them whole, or rounded.
std::vector<std::int64_t> whole_parts(std::span<const double> weights) {
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  std::vector<std::int64_t> parts(weights.size());
  for (double scale = 1; scale <= most_parts; scale *= 10) {
    bool is_whole = true;
    std::int64_t divisor = 0;
    for (std::size_t d = 0; d < weights.size() && is_whole; ++d) {
      const double scaled = weights[d] * scale;
      is_whole = scaled < 1e15 && std::abs(scaled - std::round(scaled)) <= 1e-9 * scaled;
      parts[d] = is_whole ? std::llround(scaled) : 0;
      divisor = std::gcd(divisor, parts[d]);
    }
    if (!is_whole || sum * scale > most_parts * static_cast<double>(divisor)) continue;
    for (auto& part : parts) part /= divisor;
    return parts;
  }
  for (std::size_t d = 0; d < weights.size(); ++d)
    parts[d] = std::max<std::int64_t>(1, std::llround(weights[d] / sum * most_parts));
  return parts;
}

std::vector<double> weights_of(const std::vector<MixtureSource>& sources) {
  std::vector<double> weights;
  for (const auto& source : sources) weights.push_back(source.weight);
  return weights;
}

/// Sequence i of the result is the next one of batches[source_of(i)], which is number_of(that) among the sources.
template <class F, class G>
TokenBatch interleave(const std::vector<TokenBatch>& batches, std::int64_t count, F&& source_of, G&& number_of) {
  TokenBatch result;
  result.num_sequences = count;
  result.sequence_length = batches.front().sequence_length;
  std::vector<std::int64_t> at(batches.size());
  for (std::int64_t i = 0; i < count; ++i) {
    const std::size_t source = source_of(i);
    const TokenBatch& from = batches[source];
    const std::int64_t first = at[source]++ * from.sequence_length;
    const auto append = [&](std::vector<std::int32_t>& to, const std::vector<std::int32_t>& values) {
      to.insert(to.end(), values.begin() + first, values.begin() + first + from.sequence_length);
    };
    append(result.tokens, from.tokens);
    append(result.targets, from.targets);
    append(result.positions, from.positions);
    append(result.documents, from.documents);
    for (TokenBatch::Piece piece : from.pieces) {
      if (piece.first < first || piece.first >= first + from.sequence_length) continue;
      piece.first += i * from.sequence_length - first;
      piece.source = number_of(source);
      result.pieces.push_back(piece);
    }
  }
  return result;
}

}  // namespace

MixtureSchedule::MixtureSchedule(std::span<const double> weights) : places_(weights.size()) {
  if (weights.empty() || weights.size() > most_sources)
    fail_usage("mixture: there are {} sources, expected 1 to {}", weights.size(), most_sources);
  for (std::size_t d = 0; d < weights.size(); ++d)
    if (!(weights[d] > 0 && std::isfinite(weights[d])))
      fail_usage("mixture: the weight of source {} is {}, expected a number above 0", d, weights[d]);
  const std::vector<std::int64_t> parts = whole_parts(weights);
  const std::int64_t period = std::accumulate(parts.begin(), parts.end(), std::int64_t{0});
  const auto k = static_cast<std::int64_t>(weights.size());
  // With lag_d = parts_d * i / period - count_d: of the sources that lag by 1 / (2k - 2) or more (with one source: that
  // one), the one that would soonest lag by 1 - 1 / (2k - 2). Multiplied by (2k - 2) * period, so all is whole.
  const std::int64_t scale = std::max<std::int64_t>(1, 2 * k - 2);
  for (std::int64_t i = 1; i <= period; ++i) {
    std::size_t best = weights.size();
    std::int64_t best_slack = 0;
    for (std::size_t d = 0; d < weights.size(); ++d) {
      const std::int64_t lag = scale * (parts[d] * i - period * static_cast<std::int64_t>(places_[d].size()));
      if (lag < period) continue;
      const std::int64_t slack = (scale - 1) * period - lag;
      if (best == weights.size() || slack * parts[best] < best_slack * parts[d]) {
        best = d;
        best_slack = slack;
      }
    }
    check(best < weights.size(), "mixture: no source is due at sample {} of {}", i, period);
    source_of_.push_back(static_cast<std::uint8_t>(best));
    places_[best].push_back(static_cast<std::int32_t>(i - 1));
  }
}

std::int64_t MixtureSchedule::count(std::size_t source, std::int64_t end) const {
  const auto& places = places_[source];
  const auto within = std::lower_bound(places.begin(), places.end(), end % period()) - places.begin();
  return end / period() * static_cast<std::int64_t>(places.size()) + within;
}

Mixture::Mixture(const std::vector<MixtureSource>& sources, const LoaderOptions& options)
    : schedule_(weights_of(sources)) {
  std::vector<double> measured_weights;
  for (std::size_t d = 0; d < sources.size(); ++d) {
    LoaderOptions own = options;
    if (d > 0) own.seed = core::RandomStream(options.seed, d, "data/source").bits(0);
    loaders_.emplace_back(sources[d].file, own);
    if (loaders_[d].num_held_out_sequences() == 0) continue;
    measured_.push_back(d);
    measured_weights.push_back(sources[d].weight);
  }
  if (!measured_.empty()) held_out_schedule_.emplace(measured_weights);
}

TokenBatch Mixture::fetch(std::int64_t first_sample, std::int64_t count) {
  check(first_sample >= 0 && count >= 0, "mixture: {} samples from {} were asked for", count, first_sample);
  if (loaders_.size() == 1) return loaders_[0].fetch(first_sample, count);
  std::vector<TokenBatch> batches;
  for (std::size_t d = 0; d < loaders_.size(); ++d) {
    const std::int64_t first = schedule_.count(d, first_sample);
    batches.push_back(loaders_[d].fetch(first, schedule_.count(d, first_sample + count) - first));
  }
  return interleave(
      batches, count, [&](std::int64_t i) { return schedule_.source_of(first_sample + i); },
      [](std::size_t d) { return d; });
}

std::int64_t Mixture::num_targets(std::int64_t first_sample, std::int64_t count) {
  std::int64_t sum = 0;
  for (std::size_t d = 0; d < loaders_.size(); ++d) {
    const std::int64_t first = schedule_.count(d, first_sample);
    sum += loaders_[d].num_targets(first, schedule_.count(d, first_sample + count) - first);
  }
  return sum;
}

std::int64_t Mixture::longest_pair(std::int64_t first_sample, std::int64_t count) {
  std::int64_t longest = 0;
  for (std::size_t d = 0; d < loaders_.size(); ++d) {
    const std::int64_t first = schedule_.count(d, first_sample);
    longest = std::max(longest, loaders_[d].longest_pair(first, schedule_.count(d, first_sample + count) - first));
  }
  return longest;
}

std::int64_t Mixture::num_held_out_sequences() const {
  std::int64_t there = 0;
  for (const auto d : measured_) there += loaders_[d].num_held_out_sequences();
  const auto has = [&](std::int64_t num_sequences) {
    for (std::size_t m = 0; m < measured_.size(); ++m)
      if (held_out_schedule_->count(m, num_sequences) > loaders_[measured_[m]].num_held_out_sequences()) return false;
    return true;
  };
  std::int64_t low = 0;  // has(low), and not has(there + 1)
  for (std::int64_t high = there + 1; high - low > 1;) {
    const std::int64_t middle = low + (high - low) / 2;
    (has(middle) ? low : high) = middle;
  }
  return low;
}

TokenBatch Mixture::held_out_batch(std::int64_t num_sequences) const {
  if (loaders_.size() == 1) return loaders_[0].held_out_batch(num_sequences);
  check(num_sequences >= 0 && num_sequences <= num_held_out_sequences(),
        "mixture: {} held-out sequences were asked for, there are {} in proportion to the weights", num_sequences,
        num_held_out_sequences());
  if (num_sequences == 0) return loaders_[0].held_out_batch(0);
  std::vector<TokenBatch> batches;
  for (std::size_t m = 0; m < measured_.size(); ++m)
    batches.push_back(loaders_[measured_[m]].held_out_batch(held_out_schedule_->count(m, num_sequences)));
  return interleave(
      batches, num_sequences, [&](std::int64_t i) { return held_out_schedule_->source_of(i); },
      [&](std::size_t m) { return measured_[m]; });
}

std::vector<std::size_t> Mixture::held_out_sources(std::int64_t num_sequences) const {
  std::vector<std::size_t> sources;
  for (std::int64_t i = 0; i < num_sequences; ++i) sources.push_back(measured_[held_out_schedule_->source_of(i)]);
  return sources;
}

std::vector<std::int64_t> Mixture::unigram_counts() const {
  if (loaders_.size() == 1) return loaders_[0].unigram_counts();
  std::vector<double> sum;
  for (std::size_t d = 0; d < loaders_.size(); ++d) {
    const std::vector<std::int64_t> counts = loaders_[d].unigram_counts();
    const auto total = static_cast<double>(std::accumulate(counts.begin(), counts.end(), std::int64_t{0}));
    sum.resize(counts.size());
    for (std::size_t v = 0; v < counts.size(); ++v)
      sum[v] += schedule_.share(d) * static_cast<double>(counts[v]) / total;
  }
  std::vector<std::int64_t> result;
  for (const double share : sum) result.push_back(std::llround(share * static_cast<double>(tokens_per_epoch())));
  return result;
}

std::uint64_t Mixture::fingerprint() const {
  if (loaders_.size() == 1) return loaders_[0].fingerprint();
  std::uint64_t h = core::hash_seed;
  for (std::size_t d = 0; d < loaders_.size(); ++d)
    h = core::hash_name(fmt::format("{:016x} {}\n", loaders_[d].fingerprint(), schedule_.count(d, schedule_.period())),
                        h);
  return h;
}

std::int64_t Mixture::num_train_documents() const {
  std::int64_t sum = 0;
  for (const auto& loader : loaders_) sum += static_cast<std::int64_t>(loader.train_documents().size());
  return sum;
}

std::int64_t Mixture::num_held_out_documents() const {
  std::int64_t sum = 0;
  for (const auto& loader : loaders_) sum += static_cast<std::int64_t>(loader.held_out_documents().size());
  return sum;
}

std::int64_t Mixture::tokens_per_epoch() const {
  std::int64_t sum = 0;
  for (const auto& loader : loaders_) sum += loader.tokens_per_epoch();
  return sum;
}

}  // namespace limbeck::data
