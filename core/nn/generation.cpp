#include "core/nn/generation.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/ops/linear.h"
#include "core/random.h"

namespace limbeck::nn {
namespace {

std::vector<double> logits_of_last_row(Tape& tape, const Transformer& model, const Tensor& hidden) {
  const Tensor last = hidden.rows(hidden.shape()[0] - 1, 1);
  const Tensor mine = core::linear(tape, core::constant(last), model.head()).value;
  const Tensor logits = model.comms().tensor->gather(mine, 1, model.config().vocabulary);
  std::vector<double> result;
  core::dispatch_float("generate", logits.dtype(), [&]<class T>() {
    const std::vector<T> values = core::host_values<T>(logits);
    result.assign(values.begin(), values.end());
  });
  return result;
}

/// No NaN, and the greatest is finite (-inf rules a token out).
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

/// The first rank's values, on every rank: the others contribute nothing to the sum.
std::vector<std::int64_t> from_first_rank(const Transformer& model, bool is_first, std::vector<std::int64_t> values) {
  if (!is_first) std::fill(values.begin(), values.end(), 0);
  Tensor sum = Tensor::from<std::int64_t>(model.memory(), {static_cast<std::int64_t>(values.size())}, values);
  model.comms().batch->sum(sum);
  return core::host_values<std::int64_t>(sum);
}

}  // namespace

std::int32_t sample(std::span<const double> logits, const SamplingOptions& options, std::uint64_t index) {
  check_maximum(have_maximum(logits), index);
  const auto more_likely = [&](std::int32_t a, std::int32_t b) {
    const double x = logits[static_cast<std::size_t>(a)];
    const double y = logits[static_cast<std::size_t>(b)];
    return x != y ? x > y : a < b;
  };
  std::vector<std::int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  if (options.temperature <= 0) return *std::min_element(order.begin(), order.end(), more_likely);
  std::sort(order.begin(), order.end(), more_likely);
  if (options.top_k > 0 && static_cast<std::size_t>(options.top_k) < order.size())
    order.resize(static_cast<std::size_t>(options.top_k));

  std::vector<double> p(order.size());
  const double highest = logits[static_cast<std::size_t>(order[0])];
  for (std::size_t i = 0; i < p.size(); ++i)
    p[i] = std::exp((logits[static_cast<std::size_t>(order[i])] - highest) / options.temperature);
  const double all = std::accumulate(p.begin(), p.end(), 0.0);
  double kept = 0;
  std::size_t n = 0;
  while (n < p.size() && (n == 0 || kept < options.top_p * all)) kept += p[n++];

  double left = core::RandomStream(options.seed, 0, "generate").uniform(index) * kept;
  std::size_t chosen = 0;
  while (chosen + 1 < n && left >= p[chosen]) left -= p[chosen++];
  return order[chosen];
}

std::vector<std::int32_t> generate(const Transformer& model, std::span<const std::int32_t> prompt,
                                   const GenerateOptions& options) {
  const bool first = options.is_first_rank;
  // Agreed on before any is checked: a rank that failed alone would leave the others waiting.
  const auto lengths = from_first_rank(model, first, {static_cast<std::int64_t>(prompt.size()), options.max_tokens});
  const std::int64_t prompt_size = lengths[0];
  const std::int64_t max_tokens = lengths[1];
  core::check(prompt_size > 0, "generate: the prompt has no tokens, expected at least one");
  core::check(max_tokens >= 0, "generate: max_tokens is {}, expected 0 or more", max_tokens);
  core::check(max_tokens <= model.config().max_positions - prompt_size,
              "generate: prompt of {} tokens and {} new ones exceed the model's {} positions", prompt_size, max_tokens,
              model.config().max_positions);

  std::vector<std::int32_t> text;
  if (first) text.assign(prompt.begin(), prompt.end());
  std::vector<std::int32_t> result;
  KvCache cache = model.make_cache(first && options.use_cache ? prompt_size + max_tokens : 0);
  while (static_cast<std::int64_t>(result.size()) < max_tokens) {
    Tape tape(Tape::Mode::Off);
    const std::int64_t done = cache.length();
    const Batch batch = one_sequence(model.memory(), std::span(text).subspan(static_cast<std::size_t>(done)), done);
    const Pass pass = options.use_cache ? model.pass(batch, cache) : model.pass(batch);
    const Tensor hidden = model.forward(tape, pass).hidden.value;
    std::int64_t token = 0;
    const auto index = static_cast<std::uint64_t>(prompt_size) + result.size();
    if (first) {
      std::vector<double> logits = logits_of_last_row(tape, model, hidden);
      if (options.valid_vocabulary >= 0 && options.valid_vocabulary < model.config().vocabulary)
        logits.resize(static_cast<std::size_t>(options.valid_vocabulary));
      token = have_maximum(logits) ? sample(logits, options.sampling, index) : -1;
    }
    const auto next = static_cast<std::int32_t>(from_first_rank(model, first, {token})[0]);
    check_maximum(next >= 0, index);
    if (std::find(options.stop.begin(), options.stop.end(), next) != options.stop.end()) break;
    result.push_back(next);
    if (first) text.push_back(next);
    if (options.on_token) options.on_token(next);
  }
  return result;
}

}  // namespace limbeck::nn
