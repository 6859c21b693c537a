#include "core/nn/sampling.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <string_view>
#include <utility>
#include <variant>

#include "core/error.h"
#include "core/random.h"
#include "kernels/draw_tokens.h"

namespace limbeck::nn {
namespace {

/// Tokens, likeliest first and of equal ones by index, sorted as far as they are asked for: most draws end early, and
/// a vocabulary takes longer to sort than a model to run.
class ByLikelihood {
 public:
  explicit ByLikelihood(std::span<const double> logits) : logits_(logits), order_(logits.size()) {
    std::iota(order_.begin(), order_.end(), 0);
  }
  std::int32_t operator[](std::size_t i) {
    while (i >= sorted_) sort_more();
    return order_[i];
  }

 private:
  void sort_more() {
    const auto begin = order_.begin() + static_cast<std::ptrdiff_t>(sorted_);
    sorted_ = std::min(order_.size(), std::max<std::size_t>(64, 8 * sorted_));
    std::partial_sort(begin, order_.begin() + static_cast<std::ptrdiff_t>(sorted_), order_.end(),
                      [this](std::int32_t a, std::int32_t b) {
                        const double x = logits_[static_cast<std::size_t>(a)];
                        const double y = logits_[static_cast<std::size_t>(b)];
                        return x != y ? x > y : a < b;
                      });
  }

  std::span<const double> logits_;
  std::vector<std::int32_t> order_;
  std::size_t sorted_ = 0;
};

/// The tokens that top_k and top_p leave, likeliest first, with weights that the greatest has 1 of.
class LeftTokens {
 public:
  LeftTokens(std::span<const double> logits, const SamplingOptions& options)
      : logits_(logits),
        temperature_(options.temperature),
        greatest_(*std::max_element(logits.begin(), logits.end())),
        order_(logits) {
    const bool has_most = options.top_k > 0 && options.top_k < std::ssize(logits);
    const std::size_t most = has_most ? static_cast<std::size_t>(options.top_k) : logits.size();
    double all = 0;
    if (has_most)
      for (std::size_t i = 0; i < most; ++i) all += weight(i);
    else
      for (const double logit : logits) all += weight_of(logit);
    if (options.top_p >= 1) {
      sum_ = all;
      size_ = most;
    }
    while (size_ < most && (size_ == 0 || sum_ < options.top_p * all)) sum_ += weight(size_++);
  }
  std::size_t size() const { return size_; }
  double sum() const { return sum_; }  // of their weights
  std::int32_t token(std::size_t i) { return order_[i]; }
  double weight(std::size_t i) { return weight_of(logits_[static_cast<std::size_t>(order_[i])]); }
  double weight_of(double logit) const { return std::exp((logit - greatest_) / temperature_); }

 private:
  std::span<const double> logits_;
  double temperature_, greatest_;
  ByLikelihood order_;
  double sum_ = 0;
  std::size_t size_ = 0;
};

double uniform(const SamplingOptions& options, std::string_view what, std::uint64_t index) {
  return core::RandomStream(options.seed, options.text, what).uniform(index);
}

/// Whether any token may be drawn, or the likeliest is.
bool is_of_all(const SamplingOptions& options, std::int64_t num_tokens) {
  return options.temperature <= 0 || ((options.top_k <= 0 || options.top_k >= num_tokens) && options.top_p >= 1);
}

/// By a number in [0, 1).
std::int32_t draw(const Distribution& from, double u) {
  std::int32_t chosen = from.front().token;
  for (const auto& [token, probability] : from) {
    if (probability == 0) continue;  // also where rounding has left something of the sum
    chosen = token;
    if (u < probability) break;
    u -= probability;
  }
  return chosen;
}

double probability_of(std::int32_t token, const Distribution& in) {
  const auto found = std::ranges::lower_bound(in, token, {}, &TokenProbability::token);
  return found != in.end() && found->token == token ? found->probability : 0;
}

/// max(0, p - q), normalised; p itself where that is nothing, as rounding may have it.
Distribution residual_of(const Distribution& p, const Distribution& q) {
  Distribution residual;
  double sum = 0;
  for (const auto& [token, probability] : p) {
    const double left = probability - probability_of(token, q);
    if (left > 0) residual.push_back({token, left});
    sum += std::max(left, 0.0);
  }
  if (residual.empty()) return p;
  for (TokenProbability& each : residual) each.probability /= sum;
  return residual;
}

}  // namespace

bool have_maximum(std::span<const double> logits) {
  bool found = false;
  for (const double x : logits) {
    if (!(x < std::numeric_limits<double>::infinity())) return false;
    found |= std::isfinite(x);
  }
  return found;
}

void check_maximum(bool is_there, std::uint64_t index) {
  core::check(is_there, "generate: the logits for token {} of the text have no finite maximum", index);
}

std::int32_t sample(std::span<const double> logits, const SamplingOptions& options, std::uint64_t index) {
  if (is_of_all(options, std::ssize(logits))) {
    const double chance = uniform(options, "generate", index);
    std::int32_t token = -1;
    kernels::draw_tokens(kernels::Cpu(), logits.data(), 1, std::ssize(logits), std::ssize(logits), options.temperature,
                         &chance, &token);
    check_maximum(token >= 0, index);
    return token;
  }
  check_maximum(have_maximum(logits), index);
  LeftTokens tokens(logits, options);
  double left = uniform(options, "generate", index) * tokens.sum();
  std::size_t chosen = 0;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    const double p = tokens.weight(i);
    if (p == 0) break;  // rounding has left something of the sum
    chosen = i;
    if (left < p) break;
    left -= p;
  }
  return tokens.token(chosen);
}

std::vector<double> row_of(const core::Tensor& logits, std::int64_t row, std::int64_t count) {
  std::vector<double> values(static_cast<std::size_t>(count));
  core::dispatch_float("sample", logits.dtype(), [&]<class T>() {
    std::copy_n(logits.host<T>() + row * logits.shape()[1], count, values.begin());
  });
  return values;
}

std::vector<std::int32_t> sample_rows(const core::Tensor& logits, std::int64_t count, const SamplingOptions& options,
                                      std::span<const DrawPlace> places) {
  std::vector<std::int32_t> tokens(places.size());
  const bool of_all = is_of_all(options, count);
  SamplingOptions own = options;
  std::vector<double> chances;
  for (std::size_t n = 0; n < places.size(); ++n) {
    own.text = places[n].text;
    chances.push_back(uniform(own, "generate", places[n].index));
    if (of_all) continue;
    const std::vector<double> row = row_of(logits, static_cast<std::int64_t>(n), count);
    tokens[n] = have_maximum(row) ? sample(row, own, places[n].index) : -1;
  }
  if (of_all)
    core::dispatch_float("sample", logits.dtype(), [&]<class T>() {
      kernels::draw_tokens(std::get<kernels::Cpu>(logits.memory()->device()), logits.host<T>(), std::ssize(places),
                           logits.shape()[1], count, options.temperature, chances.data(), tokens.data());
    });
  return tokens;
}

Distribution distribution_of(std::span<const double> logits, const SamplingOptions& options) {
  LeftTokens tokens(logits, options);
  Distribution result;
  if (tokens.size() == logits.size()) {  // nothing is to be sorted
    for (std::size_t i = 0; i < logits.size(); ++i)
      result.push_back({static_cast<std::int32_t>(i), tokens.weight_of(logits[i]) / tokens.sum()});
    return result;
  }
  for (std::size_t i = 0; i < tokens.size(); ++i) result.push_back({tokens.token(i), tokens.weight(i) / tokens.sum()});
  std::ranges::sort(result, {}, &TokenProbability::token);
  return result;
}

double overlap(const Distribution& p, const Distribution& q) {
  double sum = 0;
  auto other = q.begin();
  for (const auto& [token, probability] : p) {
    while (other != q.end() && other->token < token) ++other;
    if (other != q.end() && other->token == token) sum += std::min(probability, other->probability);
  }
  return sum;
}

std::int32_t draw_draft(const Distribution& q, const SamplingOptions& options, std::uint64_t index) {
  return draw(q, uniform(options, "generate draft", index));
}

std::optional<std::int32_t> replacement(std::int32_t draft, const Distribution& q, const Distribution& p,
                                        const SamplingOptions& options, std::uint64_t index) {
  if (uniform(options, "generate acceptance", index) * probability_of(draft, q) < probability_of(draft, p)) return {};
  return draw(residual_of(p, q), uniform(options, "generate residual", index));
}

}  // namespace limbeck::nn
