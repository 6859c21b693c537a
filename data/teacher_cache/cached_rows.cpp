#include "data/teacher_cache/cached_rows.h"

#include <xxhash.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "core/error.h"
#include "core/random.h"
#include "kernels/exp.h"

namespace limbeck::data {

using core::check;
using core::fail_usage;

namespace {

constexpr float none = -std::numeric_limits<float>::infinity();
constexpr double least_log_p = -1e4;  // also of a token that a teacher excludes
constexpr std::int64_t stripe = 256;  // columns whose maximum is one candidate for a bound on the kept

// Sums and maxima go by so many side by side, which the compiler takes together.
constexpr std::size_t lanes = 16;

/// The sum of exp((x - greatest) * inverse).
double sum_of_exponentials(std::span<const float> x, float greatest, float inverse) {
  double sum = 0;
  for (std::size_t begin = 0; begin < x.size(); begin += stripe) {
    const std::size_t end = std::min<std::size_t>(begin + stripe, x.size());
    std::array<float, lanes> parts{};
    std::size_t v = begin;
    for (; v + lanes <= end; v += lanes)
      for (std::size_t lane = 0; lane < lanes; ++lane)
        parts[lane] += kernels::exponential((x[v + lane] - greatest) * inverse);
    for (; v < end; ++v) parts[0] += kernels::exponential((x[v] - greatest) * inverse);
    for (const float part : parts) sum += part;
  }
  return sum;
}

float greatest_of(std::span<const float> x) {
  std::array<float, lanes> parts;
  parts.fill(none);
  std::size_t v = 0;
  for (; v + lanes <= x.size(); v += lanes)
    for (std::size_t lane = 0; lane < lanes; ++lane)
      parts[lane] = parts[lane] < x[v + lane] ? x[v + lane] : parts[lane];
  for (; v < x.size(); ++v) parts[0] = parts[0] < x[v] ? x[v] : parts[0];
  return *std::max_element(parts.begin(), parts.end());
}

}  // namespace

DocumentKey document_key(std::span<const std::int32_t> tokens) {
  const XXH128_hash_t hash = XXH3_128bits(tokens.data(), tokens.size_bytes());
  return {hash.high64, hash.low64};
}

std::string_view name_of(CacheKind kind) {
  switch (kind) {
    case CacheKind::TopK:
      return "TOP_K";
    case CacheKind::Sampled:
      return "SAMPLED";
    default:
      return "FULL";
  }
}

std::optional<std::size_t> CacheContents::place_of(double temperature) const {
  const auto found = std::find(temperatures.begin(), temperatures.end(), temperature);
  if (found == temperatures.end()) return std::nullopt;
  return static_cast<std::size_t>(found - temperatures.begin());
}

std::int64_t CacheContents::width() const { return kind == CacheKind::Full ? vocabulary : std::min(kept, vocabulary); }

std::int64_t CacheContents::rows_of_block() const {
  constexpr std::int64_t most_entries = std::int64_t{1} << 20U, most_rows = 256;
  return std::clamp<std::int64_t>(most_entries / std::max<std::int64_t>(width() + hidden_size(), 1), 1, most_rows);
}

void CacheContents::check_valid() const {
  if (vocabulary < 1 || vocabulary > most_cached_vocabulary)
    fail_usage("a teacher cache of {} tokens, expected a vocabulary of 1 to {}", vocabulary, most_cached_vocabulary);
  if (kind != CacheKind::Full && (kept < 1 || kept > 65535))
    fail_usage("a teacher cache is to keep {} tokens of each position, expected 1 to 65535", kept);
  if (temperatures.empty() || temperatures.size() > 16 || temperatures.front() <= 0)
    fail_usage("a teacher cache is for {} temperatures, expected 1 to 16, all above 0", temperatures.size());
  bool has_one = false;
  for (std::size_t i = 0; i < temperatures.size(); ++i) {
    has_one = has_one || temperatures[i] == 1;
    if (!std::isfinite(temperatures[i]) || (i > 0 && temperatures[i] <= temperatures[i - 1]))
      fail_usage("a teacher cache's temperatures have {} at place {}, expected rising numbers", temperatures[i], i);
  }
  if (!has_one) fail_usage("a teacher cache's temperatures are without 1, at which the figures of a run are");
  if (kind == CacheKind::Sampled && temperatures.size() > 1)
    fail_usage("a teacher cache of draws is for {} temperatures, expected 1 alone, which the draws are of",
               temperatures.size());
  if (hidden_layers.empty()) return;
  if (kind == CacheKind::Full)
    fail_usage("a teacher cache that keeps FULL is to keep hidden states, expected TOP_K or SAMPLED for them");
  if (std::ssize(hidden_layers) > most_hidden_layers || hidden_width < 1 || hidden_width > most_hidden_width)
    fail_usage("a teacher cache is to keep hidden states of {} layers, {} wide, expected at most {}, 1 to {} wide",
               hidden_layers.size(), hidden_width, most_hidden_layers, most_hidden_width);
  for (std::size_t i = 0; i < hidden_layers.size(); ++i)
    if (hidden_layers[i] < 0 || (i > 0 && hidden_layers[i] <= hidden_layers[i - 1]))
      fail_usage("a teacher cache's hidden states are of layer {} at place {}, expected rising layers, from 0",
                 hidden_layers[i], i);
}

void CachedRows::resize(std::int64_t rows, const CacheContents& contents) {
  n = rows;
  width = contents.width();
  const auto entries = static_cast<std::size_t>(n * width);
  ids.assign(entries, -1);
  log_p.assign(entries, 0);
  likeliest.assign(static_cast<std::size_t>(n), 0);
  target_loss.assign(static_cast<std::size_t>(n), 0);
  rest.assign(static_cast<std::size_t>(n) * contents.temperatures.size(), none);
  hidden_size = contents.hidden_size();
  hidden.assign(static_cast<std::size_t>(n * hidden_size), 0);
}

void CachedRows::copy(const CachedRows& from, std::int64_t first, std::int64_t count, std::int64_t at) {
  const auto copy = [&](const auto& source, auto& destination, std::int64_t of_row) {
    std::copy_n(source.begin() + first * of_row, count * of_row, destination.begin() + at * of_row);
  };
  copy(from.ids, ids, width);
  copy(from.log_p, log_p, width);
  copy(from.likeliest, likeliest, 1);
  copy(from.target_loss, target_loss, 1);
  copy(from.hidden, hidden, hidden_size);
  for (std::int64_t t = 0; t * n < std::ssize(rest); ++t)
    std::copy_n(from.rest.begin() + t * from.n + first, count, rest.begin() + t * n + at);
}

void log_probabilities_at(const CachedRows& rows, std::int64_t row, const CacheContents& contents,
                          std::size_t temperature, std::span<float> out) {
  const float* log_p = rows.log_p.data() + row * rows.width;
  const auto n = static_cast<std::size_t>(rows.width);
  const double inverse = 1 / contents.temperatures[temperature];
  const float greatest = *std::max_element(log_p, log_p + n);
  double sum = 0;
  for (std::size_t j = 0; j < n; ++j) sum += std::exp((static_cast<double>(log_p[j]) - greatest) * inverse);
  const double rest = std::exp(static_cast<double>(rows.rest_at(temperature, row)));
  const double offset = std::log1p(-rest) - std::log(sum);
  for (std::size_t j = 0; j < n; ++j)
    out[j] = static_cast<float>((static_cast<double>(log_p[j]) - greatest) * inverse + offset);
}

RowsMaker::RowsMaker(CacheContents contents) : contents_(std::move(contents)) { contents_.check_valid(); }

/// A bound that `width` tokens reach, which few others do: the width-th greatest of the maxima of stripes.
void RowsMaker::keep_likeliest(std::span<const float> logits) {
  const auto width = static_cast<std::size_t>(contents_.width());
  const std::size_t n = logits.size();
  const std::size_t columns = std::max<std::size_t>(1, std::min<std::size_t>(stripe, n / width));
  maxima_.clear();
  for (std::size_t begin = 0; begin < n; begin += columns)
    maxima_.push_back(greatest_of(logits.subspan(begin, std::min(columns, n - begin))));
  std::nth_element(maxima_.begin(), maxima_.begin() + static_cast<std::ptrdiff_t>(width - 1), maxima_.end(),
                   std::greater<>());
  const float bound = maxima_[width - 1];
  candidates_.clear();
  for (std::size_t v = 0; v < n; ++v)
    if (logits[v] >= bound) candidates_.push_back(static_cast<std::int32_t>(v));
  const auto kept_end = candidates_.begin() + static_cast<std::ptrdiff_t>(width);
  std::nth_element(candidates_.begin(), kept_end - 1, candidates_.end(), [&](std::int32_t a, std::int32_t b) {
    return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
  });
  ids_.assign(candidates_.begin(), kept_end);
  std::sort(ids_.begin(), ids_.end());
}

void RowsMaker::draw(std::span<const float> logits, double log_sum, const DocumentKey& document,
                     std::int64_t position) {
  cumulative_.resize(logits.size());
  double sum = 0;
  for (std::size_t v = 0; v < logits.size(); ++v)
    cumulative_[v] = sum += std::exp(static_cast<double>(logits[v]) - log_sum);
  const core::RandomStream random(document.low ^ document.high, static_cast<std::uint64_t>(position), "teacher_cache");
  ids_.clear();
  for (std::int64_t i = 0; i < contents_.kept; ++i) {
    const auto found =
        std::upper_bound(cumulative_.begin(), cumulative_.end(), random.uniform(static_cast<std::uint64_t>(i)) * sum);
    ids_.push_back(
        static_cast<std::int32_t>(std::min<std::ptrdiff_t>(found - cumulative_.begin(), std::ssize(cumulative_) - 1)));
  }
  std::sort(ids_.begin(), ids_.end());
  counts_.clear();
  std::size_t kept = 0;
  for (std::size_t i = 0; i < ids_.size(); ++i) {
    if (kept > 0 && ids_[kept - 1] == ids_[i]) {
      ++counts_[kept - 1];
      continue;
    }
    ids_[kept++] = ids_[i];
    counts_.push_back(1);
  }
  ids_.resize(kept);
}

void RowsMaker::make(std::span<const float> logits, std::int32_t target, const DocumentKey& document,
                     std::int64_t position, CachedRows& rows, std::int64_t i) {
  const auto vocabulary = static_cast<std::size_t>(contents_.vocabulary);
  check(logits.size() >= vocabulary && target >= 0 && static_cast<std::size_t>(target) < vocabulary,
        "teacher cache: {} logits and target {}, expected {} and a token below", logits.size(), target, vocabulary);
  logits = logits.first(vocabulary);
  const float most = greatest_of(logits);
  const auto log_sum = [&](double temperature) {
    return most / temperature + std::log(sum_of_exponentials(logits, most, static_cast<float>(1 / temperature)));
  };
  const double total = log_sum(1);
  check(std::isfinite(total), "the teacher's logits of position {} of a document are not finite", position);
  rows.likeliest[i] = static_cast<std::int32_t>(std::find(logits.begin(), logits.end(), most) - logits.begin());
  rows.target_loss[i] = static_cast<float>(std::max(0.0, total - static_cast<double>(logits[target])));
  float* out = rows.log_p.data() + i * rows.width;
  std::int32_t* ids = rows.ids.data() + i * rows.width;
  if (contents_.kind == CacheKind::Sampled) {
    draw(logits, total, document, position);
    double entropy = 0;
    for (const float z : logits) {
      const double log_p = static_cast<double>(z) - total;
      if (log_p > -700) entropy -= std::exp(log_p) * log_p;
    }
    rows.rest[i] = static_cast<float>(entropy);
    for (std::size_t j = 0; j < ids_.size(); ++j) {
      ids[j] = ids_[j];
      out[j] = static_cast<float>(counts_[j]) / static_cast<float>(contents_.kept);
    }
    return;
  }
  if (rows.width == contents_.vocabulary) {
    for (std::int64_t v = 0; v < rows.width; ++v) ids[v] = static_cast<std::int32_t>(v);
  } else {
    keep_likeliest(logits);
    std::copy(ids_.begin(), ids_.end(), ids);
  }
  for (std::int64_t j = 0; j < rows.width; ++j)
    out[j] = static_cast<float>(std::max(static_cast<double>(logits[ids[j]]) - total, least_log_p));
  for (std::size_t t = 0; t < contents_.temperatures.size(); ++t) {
    if (rows.width == contents_.vocabulary) continue;  // nothing is left over
    // What is not kept is summed by itself: the difference of two sums near 1 would be rounding alone.
    const auto inverse = static_cast<float>(1 / contents_.temperatures[t]);
    const double all = log_sum(contents_.temperatures[t]);
    double left = 0;
    std::size_t next = 0;
    for (std::int64_t j = 0; j <= rows.width; ++j) {
      const std::size_t end = j < rows.width ? static_cast<std::size_t>(ids[j]) : vocabulary;
      left += sum_of_exponentials(logits.subspan(next, end - next), most, inverse);
      next = end + 1;
    }
    rows.rest[static_cast<std::int64_t>(t) * rows.n + i] =
        static_cast<float>(std::log(left) + most / contents_.temperatures[t] - all);
  }
}

}  // namespace limbeck::data
