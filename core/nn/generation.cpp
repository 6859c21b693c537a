#include "core/nn/generation.h"

#include <algorithm>
#include <chrono>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "core/device/index_check.h"
#include "core/nn/drafter.h"
#include "core/nn/model_drafter.h"
#include "core/nn/predictor_drafter.h"
#include "core/ops/head_loss.h"
#include "core/random.h"

namespace limbeck::nn {
namespace {

/// Of hidden states [N,C]: [N,V], on the host.
Tensor logits_of(const Transformer& model, const Tensor& hidden) {
  const Tensor mine = core::logits_of(hidden, model.head().value, model.head_bias().value);
  return model.comms().tensor->gather(mine, 1, model.config().vocabulary).in(model.memory()->host());
}

/// Each value from the rank that has it, of a pipeline from the last stage, on every rank: the others have 0.
std::vector<std::int64_t> from_their_ranks(const Transformer& model, std::vector<std::int64_t> values) {
  if (!model.has_head()) std::fill(values.begin(), values.end(), 0);
  Tensor sum = Tensor::from<std::int64_t>(model.memory()->host(), {static_cast<std::int64_t>(values.size())}, values);
  model.comms().batch->sum(sum);
  model.pipeline().sum(sum);
  return core::host_values<std::int64_t>(sum);
}

}  // namespace

std::uint64_t key_of_text(std::span<const std::int32_t> prompt) {
  return core::hash_name({reinterpret_cast<const char*>(prompt.data()), prompt.size_bytes()});
}

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

/// One call of generate(): what the ranks know alike, and on the one that runs a text its tokens.
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
    std::vector<std::int32_t> tokens = {};  // with the prompt; on a rank that may run it
    std::uint64_t key = 0;
    Clock::time_point begin = {};
    std::vector<std::int32_t> drafts = {};      // of what follows its tokens; zeros where it is not run
    std::vector<Distribution> drawn_from = {};  // each draft, where such are drawn and where it is run
    std::vector<double> overlaps = {};          // of those with the model's own, as far as drafts have been checked
  };
  /// Tokens of a text that a pass runs, from the first that has not been.
  struct Piece {
    std::int64_t slot = 0;
    std::int64_t first = 0, end = 0;
    std::int64_t num_drafts = 0;  // the last
  };

  /// Slots that are free get the next prompts.
  void begin_texts();
  /// Of prompts that have not been run whole, as much as a pass takes.
  std::vector<Piece> pieces_of_prompts();
  /// The last token of each text, and drafts of what follows; before it what a state that went back has to see again.
  std::vector<Piece> last_tokens() const;
  /// One pass: each of these texts whose tokens have all been run gets another or ends.
  void advance(const std::vector<Piece>& pieces, Pace& pace);
  /// The hidden states of all tokens of those, [T,C].
  Tensor hidden_of(const std::vector<Piece>& pieces);
  /// Rows of those that the next tokens follow from: of a piece to the end of its text the last, and one a draft.
  Tensor rows_that_choose(const std::vector<Piece>& pieces, const Tensor& hidden) const;
  /// What follows each piece that goes to the end of its text, on every rank: of its drafts those that stay, and a
  /// token behind them, which is -1 where there is none.
  std::vector<std::vector<std::int32_t>> choices(const std::vector<Piece>& pieces, const Tensor& hidden);
  /// What follows a piece is added to its text, unless that ends before; how many tokens were.
  std::int64_t take(const Piece& piece, const std::vector<std::int32_t>& chosen);
  /// Drafts of what follows the texts of a pass, whose tokens' hidden states are given.
  void draft(const std::vector<Piece>& pieces, const Tensor& hidden);
  /// How many drafts a text may have in its next pass, once all of it has been run; once none, never again, unless it
  /// is run again from its beginning.
  std::int64_t most_drafts(std::int64_t slot) const;
  std::int64_t size_of(std::int64_t slot) const {
    const auto text = *text_of_slot_[static_cast<std::size_t>(slot)];
    return texts_[text].prompt_size + std::ssize(result_.texts[text].tokens);
  }
  bool is_whole(const Piece& piece) const { return piece.end == size_of(piece.slot) + piece.num_drafts; }
  bool is_own(const Piece& piece) const { return piece.slot % options_.shares == options_.share; }
  bool is_there(std::int64_t slot) const { return text_of_slot_[static_cast<std::size_t>(slot)].has_value(); }
  /// Where the token that is so many behind those of the text is drawn.
  DrawPlace place_in(const Text& text, std::size_t further) const { return {text.key, text.tokens.size() + further}; }
  /// How many of those logits are of tokens that may be chosen.
  std::int64_t num_choices(const Tensor& logits) const;
  /// The token that stands in place of a draft that was drawn, by the model's logits there: that draft, if it stays; -1
  /// where they have no maximum.
  std::int64_t checked_draft(const std::vector<double>& logits, Text& text, std::size_t draft) const;
  /// A draft so many tokens behind those of the text, drawn by the logits of what drafts.
  std::int32_t drawn_draft(const std::vector<double>& logits, Text& text, std::int64_t further) const;
  /// Whether drafts are drawn, and stay by speculative sampling.
  bool draws_drafts() const { return options_.draft != nullptr && options_.sampling.temperature > 0; }
  SamplingOptions sampling_of(const Text& text) const;
  std::unique_ptr<Drafter> make_drafter(std::int64_t num_slots) const;
  void add(std::int64_t slot, std::int32_t token);
  void leave(std::int64_t slot, bool is_stopped);
  void end(std::size_t text);
  const Text& text_in(std::int64_t slot) const { return texts_[*text_of_slot_[static_cast<std::size_t>(slot)]]; }
  Text& text_in(std::int64_t slot) { return texts_[*text_of_slot_[static_cast<std::size_t>(slot)]]; }
  Continuation& result_of(std::int64_t slot) { return result_.texts[*text_of_slot_[static_cast<std::size_t>(slot)]]; }

  const Transformer& model_;
  const GenerateOptions& options_;
  std::vector<Text> texts_;
  std::vector<std::optional<std::size_t>> text_of_slot_;  // none: it is free
  std::size_t num_begun_ = 0;
  std::optional<KvCache> cache_;
  std::unique_ptr<Drafter> drafter_;  // of speculative generation
  Generated result_;
};

Generation::Generation(const Transformer& model, std::span<const std::vector<std::int32_t>> prompts,
                       const GenerateOptions& options)
    : model_(model), options_(options), texts_(prompts.size()) {
  // Agreed on before any is checked: a rank that failed alone would leave the others waiting.
  std::vector<std::int64_t> sizes;
  for (const auto& prompt : prompts) sizes.push_back(std::ssize(prompt));
  sizes.push_back(options.max_tokens);
  if (options.share != 0) std::ranges::fill(sizes, 0);
  sizes = from_their_ranks(model, std::move(sizes));
  const std::int64_t max_tokens = sizes.back();
  const std::int64_t positions = model.config().max_positions;
  core::check(options.share >= 0 && options.shares > 0 &&
                  (options.shares == 1 || (!options.speculative && options.draft == nullptr)),
              "generate: share {} of {}, expected one of 0 or more, and a single one with drafts", options.share,
              options.shares);
  core::check(max_tokens >= 0, "generate: max_tokens is {}, expected 0 or more", max_tokens);
  for (std::size_t i = 0; i < texts_.size(); ++i) {
    const std::string which = texts_.size() > 1 ? fmt::format("prompt {}", i + 1) : "the prompt";
    core::check(sizes[i] > 0, "generate: {} has no tokens, expected at least one", which);
    const std::int64_t left = positions - sizes[i];
    core::check(left >= (options.fewer_where_full ? 0 : max_tokens),
                "generate: {} of {} tokens and {} new ones exceed the model's {} positions", which, sizes[i],
                options.fewer_where_full ? 0 : max_tokens, positions);
    texts_[i] = {.prompt_size = sizes[i], .max_tokens = std::min(max_tokens, left), .to_read = sizes[i]};
    if (options.share >= options.shares) continue;
    texts_[i].tokens = prompts[i];
    texts_[i].key = key_of_text(prompts[i]);
  }
  const auto num_slots = std::clamp<std::int64_t>(options.at_once, 1, std::max<std::int64_t>(1, std::ssize(texts_)));
  text_of_slot_.resize(static_cast<std::size_t>(num_slots));
  if (options.use_cache) cache_ = model.make_cache(num_slots);
  drafter_ = make_drafter(num_slots);
  result_.texts.resize(texts_.size());
}

std::unique_ptr<Drafter> Generation::make_drafter(std::int64_t num_slots) const {
  const char* with_cache = options_.use_cache ? "with" : "without";
  core::check(!options_.speculative || (options_.use_cache && model_.num_predictors() > 0),
              "generate: drafts are asked for with {} layers that predict, {} a cache, expected some, with one",
              model_.num_predictors(), with_cache);
  core::check(
      options_.draft == nullptr || (options_.use_cache && !options_.speculative),
      "generate: drafts of another model are asked for {} a cache and {} those of layers that predict, expected "
      "one, and none of those",
      with_cache, options_.speculative ? "with" : "without");
  if (options_.speculative) return std::make_unique<PredictorDrafter>(model_, num_slots);
  if (options_.draft == nullptr) return nullptr;
  return std::make_unique<ModelDrafter>(*options_.draft, num_slots, options_.draft_tokens);
}

Generated Generation::run() {
  const WholeEnd whole = model_.whole_head();
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
    pieces.push_back({slot, text.done, text.done + count});
    left -= count;
  }
  return pieces;
}

std::vector<Generation::Piece> Generation::last_tokens() const {
  std::vector<Piece> pieces;
  for (std::size_t i = 0; i < text_of_slot_.size(); ++i) {
    if (!text_of_slot_[i]) continue;
    const auto slot = static_cast<std::int64_t>(i);
    const Text& text = text_in(slot);
    const std::int64_t drafts = std::ssize(text.drafts);
    pieces.push_back({slot, text.done, size_of(slot) + drafts, drafts});
  }
  return pieces;
}

Tensor Generation::hidden_of(const std::vector<Piece>& pieces) {
  std::vector<std::vector<std::int32_t>> tokens;
  std::vector<TextPart> parts;
  std::vector<std::int64_t> slots;
  for (const Piece& piece : pieces) {
    Text& text = text_in(piece.slot);
    const std::int64_t first = cache_ && is_own(piece) ? piece.first : 0;
    std::vector<std::int32_t>& own = tokens.emplace_back();
    if (is_own(piece)) {
      own.assign(text.tokens.begin() + first, text.tokens.begin() + (piece.end - piece.num_drafts));
      own.insert(own.end(), text.drafts.begin(), text.drafts.begin() + piece.num_drafts);
    }
    if (piece.num_drafts > 0) cache_->keep(piece.slot);
    parts.push_back({{}, first, std::max(piece.end, text.to_read)});
    slots.push_back(piece.slot);
    text.done = piece.end;
  }
  for (std::size_t n = 0; n < parts.size(); ++n) parts[n].tokens = tokens[n];
  const Batch batch = sequences_of(model_.memory(), parts);
  Tape tape(Tape::Mode::Off);
  const Pass pass = cache_ ? model_.pass(batch, *cache_, slots) : model_.pass(batch);
  return model_.forward(tape, pass).hidden.value;
}

Tensor Generation::rows_that_choose(const std::vector<Piece>& pieces, const Tensor& hidden) const {
  std::int64_t count = 0, end = 0, row = 0;
  for (const Piece& piece : pieces) count += is_own(piece) && is_whole(piece) ? 1 + piece.num_drafts : 0;
  Tensor rows = Tensor::empty(model_.memory(), hidden.dtype(), {count, hidden.shape()[1]});
  for (const Piece& piece : pieces) {
    if (!is_own(piece)) continue;
    end += piece.end - (cache_ ? piece.first : 0);
    if (!is_whole(piece)) continue;
    const std::int64_t own = 1 + piece.num_drafts;
    rows.rows(std::exchange(row, row + own), own).copy_from(hidden.rows(end - own, own));
  }
  return rows;
}

std::int64_t Generation::num_choices(const Tensor& logits) const {
  const std::int64_t count = std::min(logits.shape()[1], model_.config().vocabulary);
  return options_.valid_vocabulary >= 0 ? std::min(count, options_.valid_vocabulary) : count;
}

SamplingOptions Generation::sampling_of(const Text& text) const {
  SamplingOptions sampling = options_.sampling;
  sampling.text = text.key;
  return sampling;
}

std::int64_t Generation::checked_draft(const std::vector<double>& logits, Text& text, std::size_t draft) const {
  if (!have_maximum(logits)) return -1;
  const SamplingOptions sampling = sampling_of(text);
  const std::int32_t token = text.drafts[draft];
  const Distribution p = distribution_of(logits, sampling);
  const Distribution& q = text.drawn_from[draft];
  text.overlaps.push_back(overlap(p, q));
  return replacement(token, q, p, sampling, text.tokens.size() + draft).value_or(token);
}

// Logits without a maximum are the draft's own concern: it is token 0.
std::int32_t Generation::drawn_draft(const std::vector<double>& logits, Text& text, std::int64_t further) const {
  const SamplingOptions sampling = sampling_of(text);
  text.drawn_from.push_back(have_maximum(logits) ? distribution_of(logits, sampling) : Distribution{{0, 1.0}});
  return draw_draft(text.drawn_from.back(), sampling, text.tokens.size() + static_cast<std::size_t>(further));
}

std::vector<std::vector<std::int32_t>> Generation::choices(const std::vector<Piece>& pieces, const Tensor& hidden) {
  constexpr std::int64_t nothing = -2;
  std::vector<std::int64_t> packed;  // of each piece as many as it may have
  const auto chooses = [&](const Piece& piece) { return is_own(piece) && model_.has_head(); };
  std::vector<DrawPlace> places;
  for (const Piece& piece : pieces)
    for (std::size_t i = 0; chooses(piece) && is_whole(piece) && i <= static_cast<std::size_t>(piece.num_drafts); ++i)
      places.push_back(place_in(text_in(piece.slot), i));
  Tensor logits;
  std::vector<std::int32_t> drawn;
  if (!places.empty()) {
    logits = logits_of(model_, rows_that_choose(pieces, hidden));
    drawn = sample_rows(logits, num_choices(logits), options_.sampling, places);
  }
  std::size_t row = 0;
  for (const Piece& piece : pieces) {
    if (!is_whole(piece)) continue;
    const std::size_t begin = packed.size();
    packed.resize(begin + 1 + static_cast<std::size_t>(piece.num_drafts), chooses(piece) ? nothing : 0);
    if (!chooses(piece)) continue;
    Text& text = text_in(piece.slot);
    for (std::size_t i = begin; i < packed.size(); ++i) {
      const std::size_t further = i - begin;
      packed[i] = further < text.drawn_from.size()
                      ? checked_draft(row_of(logits, static_cast<std::int64_t>(row + further), num_choices(logits)),
                                      text, further)
                      : drawn[row + further];
      if (i + 1 < packed.size() && packed[i] != text.drafts[further]) break;
    }
    row += packed.size() - begin;
  }
  core::NotesCopy(model_.memory()).check();
  if (!packed.empty()) packed = from_their_ranks(model_, std::move(packed));
  std::vector<std::vector<std::int32_t>> chosen;
  auto at = packed.begin();
  for (const Piece& piece : pieces) {
    std::vector<std::int32_t>& own = chosen.emplace_back();
    if (!is_whole(piece)) continue;
    const auto end = at + 1 + piece.num_drafts;
    own.assign(at, std::find(at, end, nothing));
    at = end;
  }
  return chosen;
}

void Generation::advance(const std::vector<Piece>& pieces, Pace& pace) {
  auto begin = Clock::now();
  const Tensor hidden = hidden_of(pieces);
  const std::vector<std::vector<std::int32_t>> chosen = choices(pieces, hidden);
  pace.seconds += seconds_since(begin);
  for (std::size_t n = 0; n < pieces.size(); ++n) {
    const Piece& piece = pieces[n];
    if (&pace == &result_.decode) ++result_of(piece.slot).num_passes;
    const std::int64_t added = chosen[n].empty() ? 0 : take(piece, chosen[n]);
    if (!is_own(piece)) continue;
    const bool decodes = cache_ && &pace == &result_.decode;
    const std::int64_t run = decodes ? 1 : piece.end - (cache_ ? piece.first : 0);
    pace.tokens += piece.num_drafts > 0 ? added : run;
  }
  begin = Clock::now();
  if (drafter_) draft(pieces, hidden);
  pace.seconds += seconds_since(begin);
}

std::int64_t Generation::take(const Piece& piece, const std::vector<std::int32_t>& chosen) {
  Text& text = text_in(piece.slot);
  const std::int64_t kept = std::ssize(chosen) - 1;
  const bool some_fell = kept < piece.num_drafts;
  const bool has_states = model_.config().num_mamba_layers() > 0;
  text.done = some_fell && has_states ? piece.first : piece.end - piece.num_drafts + kept;
  text.drafts.clear();
  text.drawn_from.clear();
  const std::vector<double> overlaps = std::exchange(text.overlaps, {});
  if (some_fell && is_own(piece)) {
    if (has_states)
      cache_->go_back(piece.slot);
    else
      cache_->truncate(piece.slot, text.done);
  }
  Continuation& result = result_of(piece.slot);
  result.num_drafted += piece.num_drafts;
  std::int64_t added = 0;
  for (const std::int32_t token : chosen) {
    if (!is_there(piece.slot)) break;
    if (added < piece.num_drafts) ++result.num_tried;  // the token behind the kept ones stands where a draft fell
    if (added < kept) ++result.num_accepted;
    if (added < std::ssize(overlaps)) result.sum_min += overlaps[static_cast<std::size_t>(added)];
    ++added;
    add(piece.slot, token);
  }
  return added;
}

std::int64_t Generation::most_drafts(std::int64_t slot) const {
  const std::size_t index = *text_of_slot_[static_cast<std::size_t>(slot)];
  const std::int64_t size = size_of(slot), most = model_.config().long_context_from();
  // The pass adds a token behind them.
  std::int64_t drafts =
      std::min(drafter_->most(size), texts_[index].max_tokens - std::ssize(result_.texts[index].tokens) - 1);
  if (size <= most) drafts = std::min(drafts, most - size);  // all of it is turned as a short text
  return std::max<std::int64_t>(drafts, 0);
}

void Generation::draft(const std::vector<Piece>& pieces, const Tensor& hidden) {
  std::vector<DraftPart> parts;
  std::int64_t row = 0;
  for (const Piece& piece : pieces) {
    const std::int64_t from = std::exchange(row, row + (is_own(piece) ? piece.end - piece.first : 0));
    if (!is_there(piece.slot) || text_in(piece.slot).done == 0) continue;
    const Text& text = text_in(piece.slot);
    const std::int64_t most = most_drafts(piece.slot);
    if (most == 0) continue;
    const bool is_read = text.done >= text.to_read;  // and a token stands behind what was read
    DraftPart part{.slot = piece.slot, .context = std::max(text.done, text.to_read), .wanted = is_read ? most : 0};
    if (is_own(piece)) {
      part.first = piece.first;
      part.end = is_read ? size_of(piece.slot) - 1 : text.done;
      part.tokens = text.tokens;
      part.hidden = hidden.rows(from, text.done - piece.first);
    } else {
      part.hidden = hidden.rows(from, 0);
    }
    parts.push_back(std::move(part));
  }
  const auto choose = [&](std::span<const std::size_t> of, const Tensor& last, std::int64_t further) {
    std::vector<std::int32_t> tokens(of.size(), 0);
    if (options_.share >= options_.shares) return tokens;
    const Tensor logits = logits_of(drafter_->head_of(), last);
    std::vector<DrawPlace> places;
    for (std::size_t n = 0; n < of.size(); ++n) {
      Text& text = text_in(parts[of[n]].slot);
      places.push_back(place_in(text, static_cast<std::size_t>(further)));
      if (draws_drafts())
        tokens[n] = drawn_draft(row_of(logits, static_cast<std::int64_t>(n), num_choices(logits)), text, further);
    }
    if (draws_drafts()) return tokens;
    tokens = sample_rows(logits, num_choices(logits), options_.sampling, places);
    for (std::int32_t& token : tokens) token = std::max(token, 0);  // where they have no maximum: the draft's concern
    return tokens;
  };
  std::vector<std::vector<std::int32_t>> drafts = drafter_->draft(parts, choose);
  for (std::size_t n = 0; n < parts.size(); ++n) text_in(parts[n].slot).drafts = std::move(drafts[n]);
  core::NotesCopy(model_.memory()).check();
}

void Generation::add(std::int64_t slot, std::int32_t token) {
  const std::size_t index = *text_of_slot_[static_cast<std::size_t>(slot)];
  Text& text = texts_[index];
  std::vector<std::int32_t>& added = result_.texts[index].tokens;
  check_maximum(token >= 0, static_cast<std::uint64_t>(text.prompt_size) + added.size());
  if (std::find(options_.stop.begin(), options_.stop.end(), token) != options_.stop.end()) {
    result_.texts[index].stop_token = token;
    return leave(slot, true);
  }
  added.push_back(token);
  if (options_.share < options_.shares) text.tokens.push_back(token);
  if (options_.on_token) options_.on_token(index, token);
  if (options_.ends_text && options_.ends_text(index, token)) return leave(slot, true);
  if (std::ssize(added) == text.max_tokens) return leave(slot, false);
  const std::int64_t size = text.prompt_size + std::ssize(added), most = model_.config().long_context_from();
  if (cache_ && most > 0 && size == most + 1) {
    cache_->clear(slot);
    if (drafter_) drafter_->clear(slot);
    text.done = 0;
    text.to_read = size;
  }
}

void Generation::leave(std::int64_t slot, bool is_stopped) {
  const std::size_t text = *std::exchange(text_of_slot_[static_cast<std::size_t>(slot)], std::nullopt);
  if (cache_) cache_->clear(slot);
  if (drafter_) drafter_->clear(slot);
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
