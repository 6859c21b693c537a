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

#include "core/device/index_check.h"
#include "core/ops/head_loss.h"
#include "core/random.h"

namespace limbeck::nn {
namespace {

/// Of hidden states [N,C]: [N,V], row by row.
std::vector<double> logits_of(const Transformer& model, const Tensor& hidden) {
  const Tensor mine = core::logits_of(hidden, model.head().value, model.head_bias().value);
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
  Tensor sum = Tensor::from<std::int64_t>(model.memory()->host(), {static_cast<std::int64_t>(values.size())}, values);
  model.comms().batch->sum(sum);
  return core::host_values<std::int64_t>(sum);
}

}  // namespace

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

}  // namespace

std::int32_t sample(std::span<const double> logits, const SamplingOptions& options, std::uint64_t index) {
  check_maximum(have_maximum(logits), index);
  const auto likeliest = std::max_element(logits.begin(), logits.end());
  if (options.temperature <= 0) return static_cast<std::int32_t>(likeliest - logits.begin());
  ByLikelihood order(logits);
  const auto weight = [&](double logit) { return std::exp((logit - *likeliest) / options.temperature); };
  const auto weight_at = [&](std::size_t i) { return weight(logits[static_cast<std::size_t>(order[i])]); };
  const bool has_most = options.top_k > 0 && options.top_k < std::ssize(logits);
  const std::size_t most = has_most ? static_cast<std::size_t>(options.top_k) : logits.size();
  double all = 0;
  if (has_most)
    for (std::size_t i = 0; i < most; ++i) all += weight_at(i);
  else
    for (const double logit : logits) all += weight(logit);
  double kept = 0;
  std::size_t n = 0;
  if (options.top_p >= 1) {
    kept = all;
    n = most;
  }
  while (n < most && (n == 0 || kept < options.top_p * all)) kept += weight_at(n++);

  double left = core::RandomStream(options.seed, options.text, "generate").uniform(index) * kept;
  std::size_t chosen = 0;
  for (std::size_t i = 0; i < n; ++i) {
    const double p = weight_at(i);
    if (p == 0) break;  // rounding has left something of the sum
    chosen = i;
    if (left < p) break;
    left -= p;
  }
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
    std::int64_t to_read = 0;               // tokens that are run together: its prompt, or all, to be run again
    std::int64_t done = 0;                  // tokens that the model has run
    std::vector<std::int32_t> tokens = {};  // with the prompt; on the first rank alone
    std::uint64_t key = 0;
    Clock::time_point begin = {};
  };
  /// Tokens of a text that a pass runs, from the first that has not been.
  struct Piece {
    std::int64_t slot = 0;
    std::int64_t end = 0;
  };

  /// Slots that are free get the next prompts.
  void begin_texts();
  /// Of prompts that have not been run whole, as much as a pass takes.
  std::vector<Piece> pieces_of_prompts();
  /// The last token of each text.
  std::vector<Piece> last_tokens() const;
  /// One pass: each of these texts whose tokens have all been run gets another or ends.
  void advance(const std::vector<Piece>& pieces, Pace& pace);
  /// The hidden states of the last token of those, [N,C]; on other ranks than the first none.
  Tensor hidden_of(const std::vector<Piece>& pieces, Pace& pace);
  bool is_whole(const Piece& piece) const {
    const auto text = *text_of_slot_[static_cast<std::size_t>(piece.slot)];
    return piece.end == texts_[text].prompt_size + std::ssize(result_.texts[text].tokens);
  }
  std::int64_t next_token(std::span<const double> logits, const Text& text) const;
  void add(std::int64_t slot, std::int32_t token);
  void leave(std::int64_t slot, bool is_stopped);
  void end(std::size_t text);
  const Text& text_in(std::int64_t slot) const { return texts_[*text_of_slot_[static_cast<std::size_t>(slot)]]; }
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
  for (std::size_t i = 0; i < texts_.size(); ++i) {
    const std::string which = texts_.size() > 1 ? fmt::format("prompt {}", i + 1) : "the prompt";
    core::check(sizes[i] > 0, "generate: {} has no tokens, expected at least one", which);
    const std::int64_t left = positions - sizes[i];
    core::check(left >= (options.fewer_where_full ? 0 : max_tokens),
                "generate: {} of {} tokens and {} new ones exceed the model's {} positions", which, sizes[i],
                options.fewer_where_full ? 0 : max_tokens, positions);
    texts_[i] = {.prompt_size = sizes[i], .max_tokens = std::min(max_tokens, left), .to_read = sizes[i]};
    if (!options.is_first_rank) continue;
    texts_[i].tokens = prompts[i];
    texts_[i].key = key_of_text(prompts[i]);
  }
  const auto num_slots = std::clamp<std::int64_t>(options.at_once, 1, std::max<std::int64_t>(1, std::ssize(texts_)));
  text_of_slot_.resize(static_cast<std::size_t>(num_slots));
  if (options.use_cache) cache_ = model.make_cache(num_slots);
  result_.texts.resize(texts_.size());
}

Generated Generation::run() {
  while (true) {
    begin_texts();
    if (const auto pieces = pieces_of_prompts(); !pieces.empty()) {
      advance(pieces, result_.prefill);
    } else if (const auto going_on = last_tokens(); !going_on.empty()) {
      advance(going_on, result_.decode);
    } else {
      return std::move(result_);
    }
  }
}

void Generation::begin_texts() {
  for (auto& text : text_of_slot_) {
    if (text) continue;
    while (num_begun_ < texts_.size() && texts_[num_begun_].max_tokens == 0) end(num_begun_++);
    if (num_begun_ == texts_.size()) break;
    text = num_begun_++;
  }
}

std::vector<Generation::Piece> Generation::pieces_of_prompts() {
  std::vector<Piece> pieces;
  std::int64_t left = std::max<std::int64_t>(options_.most_of_prompts, 1);
  for (std::size_t i = 0; i < text_of_slot_.size() && left > 0; ++i) {
    const auto slot = static_cast<std::int64_t>(i);
    if (!text_of_slot_[i] || text_in(slot).done >= text_in(slot).to_read) continue;
    Text& text = text_in(slot);
    if (text.done == 0 && text.to_read == text.prompt_size) text.begin = Clock::now();
    const std::int64_t count = cache_ ? std::min(left, text.to_read - text.done) : text.to_read;
    pieces.push_back({slot, text.done + count});
    left -= count;
  }
  return pieces;
}

std::vector<Generation::Piece> Generation::last_tokens() const {
  std::vector<Piece> pieces;
  for (std::size_t i = 0; i < text_of_slot_.size(); ++i)
    if (text_of_slot_[i])
      pieces.push_back({static_cast<std::int64_t>(i), text_in(static_cast<std::int64_t>(i)).done + 1});
  return pieces;
}

Tensor Generation::hidden_of(const std::vector<Piece>& pieces, Pace& pace) {
  std::vector<TextPart> parts;
  std::vector<std::int64_t> slots;
  for (const auto& [slot, end] : pieces) {
    Text& text = text_in(slot);
    const std::int64_t first = cache_ && options_.is_first_rank ? text.done : 0;
    parts.push_back({std::span(text.tokens)
                         .subspan(static_cast<std::size_t>(first),
                                  static_cast<std::size_t>(options_.is_first_rank ? end - first : 0)),
                     first, std::max(end, text.to_read)});
    slots.push_back(slot);
    text.done = end;
  }
  const Batch batch = sequences_of(model_.memory(), parts);
  Tape tape(Tape::Mode::Off);
  const Pass pass = cache_ ? model_.pass(batch, *cache_, slots) : model_.pass(batch);
  const Tensor hidden = model_.forward(tape, pass).hidden.value;
  pace.tokens += batch.num_tokens();
  if (!options_.is_first_rank) return hidden;
  const std::int64_t whole = std::count_if(pieces.begin(), pieces.end(), [&](const auto& p) { return is_whole(p); });
  Tensor last = Tensor::empty(model_.memory(), hidden.dtype(), {whole, hidden.shape()[1]});
  std::int64_t end = 0, row = 0;
  for (std::size_t n = 0; n < parts.size(); ++n) {
    end += std::ssize(parts[n].tokens);
    if (is_whole(pieces[n])) last.rows(row++, 1).copy_from(hidden.rows(end - 1, 1));
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

void Generation::advance(const std::vector<Piece>& pieces, Pace& pace) {
  const auto begin = Clock::now();
  const Tensor hidden = hidden_of(pieces, pace);
  std::vector<std::int64_t> slots;
  for (const Piece& piece : pieces)
    if (is_whole(piece)) slots.push_back(piece.slot);
  std::vector<std::int64_t> next(slots.size(), 0);
  if (options_.is_first_rank && !slots.empty()) {
    const std::vector<double> logits = logits_of(model_, hidden);
    const std::size_t width = logits.size() / slots.size();
    for (std::size_t n = 0; n < slots.size(); ++n)
      next[n] = next_token(std::span(logits).subspan(n * width, width), text_in(slots[n]));
  }
  core::NotesCopy(model_.memory()).check();
  if (!slots.empty()) next = from_first_rank(model_, options_.is_first_rank, std::move(next));
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
  if (std::ssize(added) == text.max_tokens) return leave(slot, false);
  const std::int64_t size = text.prompt_size + std::ssize(added), most = model_.config().long_context_from();
  if (cache_ && most > 0 && size == most + 1) {
    cache_->clear(slot);
    text.done = 0;
    text.to_read = size;
  }
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
