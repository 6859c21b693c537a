#include "core/nn/generation.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <iterator>
#include <limits>
#include <numeric>
#include <optional>
#include <string>
#include <utility>

#include "core/ops/head_loss.h"
#include "core/random.h"

namespace limbeck::nn {
namespace {

/// Of hidden states [N,C]: [N,V], row by row.
std::vector<double> logits_of(const Transformer& model, const Tensor& hidden) {
  const Tensor mine = core::logits_of(hidden, model.head().value);
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
  if (options.top_k > 0 && options.top_k < std::ssize(order)) {
    std::partial_sort(order.begin(), order.begin() + options.top_k, order.end(), more_likely);
    order.resize(static_cast<std::size_t>(options.top_k));
  } else {
    std::sort(order.begin(), order.end(), more_likely);
  }

  std::vector<double> p(order.size());
  const double highest = logits[static_cast<std::size_t>(order[0])];
  for (std::size_t i = 0; i < p.size(); ++i)
    p[i] = std::exp((logits[static_cast<std::size_t>(order[i])] - highest) / options.temperature);
  const double all = std::accumulate(p.begin(), p.end(), 0.0);
  double kept = 0;
  std::size_t n = 0;
  while (n < p.size() && (n == 0 || kept < options.top_p * all)) kept += p[n++];

  double left = core::RandomStream(options.seed, options.text, "generate").uniform(index) * kept;
  std::size_t chosen = 0;
  while (chosen + 1 < n && left >= p[chosen]) left -= p[chosen++];
  return order[chosen];
}

std::uint64_t key_of_text(std::span<const std::int32_t> prompt) {
  return core::hash_name({reinterpret_cast<const char*>(prompt.data()), prompt.size_bytes()});
}

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

/// One call of generate(): what the ranks know alike, and on the first the tokens.
class Generation {
 public:
  Generation(const Transformer& model, std::span<const std::vector<std::int32_t>> prompts,
             const GenerateOptions& options);
  Generated run();

 private:
  struct Text {
    std::int64_t prompt_size = 0;
    std::int64_t max_tokens = 0;
    std::vector<std::int32_t> tokens = {};  // with the prompt; on the first rank alone
    std::uint64_t key = 0;
    Clock::time_point begin = {};
  };
  static constexpr std::int64_t max_prefill = 4096;  // tokens of a pass: what its activations need stays bounded

  /// Slots that are free get the next prompts; returns the slots of a pass, at most max_prefill tokens or one prompt.
  std::vector<std::int64_t> begin_texts();
  std::vector<std::int64_t> slots_in_use() const;
  /// One pass over the tokens that the cache does not hold yet: each of these texts gets a token or ends.
  void advance(const std::vector<std::int64_t>& slots, Pace& pace);
  Tensor hidden_of(const std::vector<std::int64_t>& slots, Pace& pace);
  std::int64_t next_token(std::span<const double> logits, const Text& text) const;
  void add(std::int64_t slot, std::int32_t token);
  void leave(std::int64_t slot, bool is_stopped);
  void end(std::size_t text);
  Text& text_in(std::int64_t slot) { return texts_[*text_of_slot_[static_cast<std::size_t>(slot)]]; }

  const Transformer& model_;
  const GenerateOptions& options_;
  std::vector<Text> texts_;
  std::vector<std::optional<std::size_t>> text_of_slot_;  // none: it is free
  std::size_t num_begun_ = 0;
  std::optional<KvCache> cache_;
  Generated result_;
};

Generation::Generation(const Transformer& model, std::span<const std::vector<std::int32_t>> prompts,
                       const GenerateOptions& options)
    : model_(model), options_(options), texts_(prompts.size()) {
  // Agreed on before any is checked: a rank that failed alone would leave the others waiting.
  std::vector<std::int64_t> sizes;
  for (const auto& prompt : prompts) sizes.push_back(std::ssize(prompt));
  sizes.push_back(options.max_tokens);
  sizes = from_first_rank(model, options.is_first_rank, std::move(sizes));
  const std::int64_t max_tokens = sizes.back();
  const std::int64_t positions = model.config().max_positions;
  core::check(max_tokens >= 0, "generate: max_tokens is {}, expected 0 or more", max_tokens);
  std::int64_t longest = 0;
  for (std::size_t i = 0; i < texts_.size(); ++i) {
    const std::string which = texts_.size() > 1 ? fmt::format("prompt {}", i + 1) : "the prompt";
    core::check(sizes[i] > 0, "generate: {} has no tokens, expected at least one", which);
    const std::int64_t left = positions - sizes[i];
    core::check(left >= (options.fewer_where_full ? 0 : max_tokens),
                "generate: {} of {} tokens and {} new ones exceed the model's {} positions", which, sizes[i],
                options.fewer_where_full ? 0 : max_tokens, positions);
    texts_[i] = {.prompt_size = sizes[i], .max_tokens = std::min(max_tokens, left)};
    longest = std::max(longest, sizes[i] + texts_[i].max_tokens);
    if (!options.is_first_rank) continue;
    texts_[i].tokens = prompts[i];
    texts_[i].key = key_of_text(prompts[i]);
  }
  const auto num_slots = std::clamp<std::int64_t>(options.at_once, 1, std::max<std::int64_t>(1, std::ssize(texts_)));
  text_of_slot_.resize(static_cast<std::size_t>(num_slots));
  if (options.use_cache) cache_ = model.make_cache(num_slots, options.is_first_rank ? longest : 0);
  result_.texts.resize(texts_.size());
}

Generated Generation::run() {
  while (true) {
    if (const auto fresh = begin_texts(); !fresh.empty()) {
      advance(fresh, result_.prefill);
    } else if (const auto going_on = slots_in_use(); !going_on.empty()) {
      advance(going_on, result_.decode);
    } else {
      return std::move(result_);
    }
  }
}

std::vector<std::int64_t> Generation::begin_texts() {
  std::vector<std::int64_t> fresh;
  std::int64_t tokens = 0;
  for (std::size_t slot = 0; slot < text_of_slot_.size(); ++slot) {
    if (text_of_slot_[slot]) continue;
    while (num_begun_ < texts_.size() && texts_[num_begun_].max_tokens == 0) end(num_begun_++);
    if (num_begun_ == texts_.size()) break;
    tokens += texts_[num_begun_].prompt_size;
    if (!fresh.empty() && tokens > max_prefill) break;
    texts_[num_begun_].begin = Clock::now();
    text_of_slot_[slot] = num_begun_++;
    fresh.push_back(static_cast<std::int64_t>(slot));
  }
  return fresh;
}

std::vector<std::int64_t> Generation::slots_in_use() const {
  std::vector<std::int64_t> slots;
  for (std::size_t slot = 0; slot < text_of_slot_.size(); ++slot)
    if (text_of_slot_[slot]) slots.push_back(static_cast<std::int64_t>(slot));
  return slots;
}

/// The hidden states of each text's last token, [N,C]; on other ranks than the first none.
Tensor Generation::hidden_of(const std::vector<std::int64_t>& slots, Pace& pace) {
  std::vector<TextPart> parts;
  for (const std::int64_t slot : slots) {
    const std::int64_t done = cache_ && options_.is_first_rank ? cache_->length(slot) : 0;
    parts.push_back({std::span(text_in(slot).tokens).subspan(static_cast<std::size_t>(done)), done});
  }
  const Batch batch = sequences_of(model_.memory(), parts);
  Tape tape(Tape::Mode::Off);
  const Pass pass = cache_ ? model_.pass(batch, *cache_, slots) : model_.pass(batch);
  const Tensor hidden = model_.forward(tape, pass).hidden.value;
  pace.tokens += batch.num_tokens();
  if (!options_.is_first_rank) return hidden;
  Tensor last = Tensor::empty(model_.memory(), hidden.dtype(), {std::ssize(slots), hidden.shape()[1]});
  std::int64_t end = 0;
  for (std::size_t n = 0; n < parts.size(); ++n) {
    end += std::ssize(parts[n].tokens);
    last.rows(static_cast<std::int64_t>(n), 1).copy_from(hidden.rows(end - 1, 1));
  }
  return last;
}

std::int64_t Generation::next_token(std::span<const double> logits, const Text& text) const {
  if (options_.valid_vocabulary >= 0 && options_.valid_vocabulary < std::ssize(logits))
    logits = logits.first(static_cast<std::size_t>(options_.valid_vocabulary));
  if (!have_maximum(logits)) return -1;
  SamplingOptions sampling = options_.sampling;
  sampling.text = text.key;
  return sample(logits, sampling, text.tokens.size());
}

void Generation::advance(const std::vector<std::int64_t>& slots, Pace& pace) {
  const auto begin = Clock::now();
  const Tensor hidden = hidden_of(slots, pace);
  std::vector<std::int64_t> next(slots.size(), 0);
  if (options_.is_first_rank) {
    const std::vector<double> logits = logits_of(model_, hidden);
    const std::size_t width = logits.size() / slots.size();
    for (std::size_t n = 0; n < slots.size(); ++n)
      next[n] = next_token(std::span(logits).subspan(n * width, width), text_in(slots[n]));
  }
  next = from_first_rank(model_, options_.is_first_rank, std::move(next));
  pace.seconds += seconds_since(begin);
  for (std::size_t n = 0; n < slots.size(); ++n) add(slots[n], static_cast<std::int32_t>(next[n]));
}

void Generation::add(std::int64_t slot, std::int32_t token) {
  const std::size_t index = *text_of_slot_[static_cast<std::size_t>(slot)];
  Text& text = texts_[index];
  std::vector<std::int32_t>& added = result_.texts[index].tokens;
  check_maximum(token >= 0, static_cast<std::uint64_t>(text.prompt_size) + added.size());
  if (std::find(options_.stop.begin(), options_.stop.end(), token) != options_.stop.end()) return leave(slot, true);
  added.push_back(token);
  if (options_.is_first_rank) text.tokens.push_back(token);
  if (options_.on_token) options_.on_token(index, token);
  if (std::ssize(added) == text.max_tokens) leave(slot, false);
}

void Generation::leave(std::int64_t slot, bool is_stopped) {
  const std::size_t text = *std::exchange(text_of_slot_[static_cast<std::size_t>(slot)], std::nullopt);
  if (cache_) cache_->clear(slot);
  result_.texts[text].is_stopped = is_stopped;
  result_.texts[text].seconds = seconds_since(texts_[text].begin);
  end(text);
}

void Generation::end(std::size_t text) {
  if (options_.on_end) options_.on_end(text, result_.texts[text]);
}

}  // namespace

Generated generate_texts(const Transformer& model, std::span<const std::vector<std::int32_t>> prompts,
                         const GenerateOptions& options) {
  return Generation(model, prompts, options).run();
}

std::vector<std::int32_t> generate(const Transformer& model, std::span<const std::int32_t> prompt,
                                   const GenerateOptions& options) {
  const std::vector<std::int32_t> only(prompt.begin(), prompt.end());
  return std::move(generate_texts(model, {&only, 1}, options).texts.front().tokens);
}

}  // namespace limbeck::nn
