#include "core/nn/predictor_drafter.h"

#include <algorithm>
#include <utility>

namespace limbeck::nn {
namespace {

/// Of a text's tokens from `first` on the one that is so many further on; 0 where none is known.
std::vector<std::int32_t> tokens_ahead(const DraftPart& part, std::int64_t first, std::int64_t by,
                                       const std::vector<std::int32_t>& drafts) {
  std::vector<std::int32_t> tokens;
  for (std::int64_t i = first + by; i < part.end + by; ++i) {
    const std::int64_t behind = i - std::ssize(part.tokens);
    tokens.push_back(behind < 0                    ? part.tokens[static_cast<std::size_t>(i)]
                     : behind < std::ssize(drafts) ? drafts[static_cast<std::size_t>(behind)]
                                                   : 0);
  }
  return tokens;
}

}  // namespace

PredictorDrafter::PredictorDrafter(const Transformer& model, std::int64_t num_slots)
    : model_(model), cache_(model.make_predict_cache(num_slots)), tails_(static_cast<std::size_t>(num_slots)) {
  core::check(model.num_predictors() > 0, "drafts: the model has no layers that predict further tokens");
}

void PredictorDrafter::clear(std::int64_t slot) { cache_.clear(slot); }

// Depth k makes a token's hidden state of that of the depth before and of the token k + 1 further on. What it made of a
// draft is not to stay: so all depths run anew over as many tokens before the new ones as the last depth looks ahead.
std::int64_t PredictorDrafter::first_of(const DraftPart& part) const {
  return part.first - std::min(part.first, model_.num_predictors() - 1);
}

Tensor PredictorDrafter::states_of(std::span<const DraftPart> parts) {
  const Tensor& like = parts.front().hidden;
  std::int64_t rows = 0, row = 0;
  for (const DraftPart& part : parts) rows += part.end - first_of(part);
  Tensor states = Tensor::empty(like.memory(), like.dtype(), {rows, like.shape()[1]});
  for (const DraftPart& part : parts) {
    Tensor& tail = tails_[static_cast<std::size_t>(part.slot)];
    const std::int64_t kept = part.first - first_of(part), count = part.end - part.first;
    if (kept > 0) states.rows(row, kept).copy_from(tail);
    if (count > 0) states.rows(row + kept, count).copy_from(part.hidden);
    row += kept + count;
    const std::int64_t last = std::min(model_.num_predictors() - 1, part.end);
    if (last > 0) tail = states.rows(row - last, last).clone();
  }
  return states;
}

std::vector<std::vector<std::int32_t>> PredictorDrafter::draft(std::span<const DraftPart> parts, const Choose& choose) {
  std::vector<std::vector<std::int32_t>> drafts(parts.size()), tokens(parts.size());
  if (parts.empty()) return drafts;
  std::vector<TextPart> texts;
  std::vector<std::int64_t> slots;
  for (std::size_t n = 0; n < parts.size(); ++n) {
    const DraftPart& part = parts[n];
    const std::int64_t first = first_of(part);
    tokens[n] = tokens_ahead(part, first, 1, {});
    texts.push_back({tokens[n], first, part.context});
    slots.push_back(part.slot);
    cache_.truncate(part.slot, first);
  }
  const Batch batch = sequences_of(model_.memory(), texts);
  Tape tape(Tape::Mode::Off);
  const Pass pass = model_.pass(batch, cache_, slots);
  Var stream = core::constant(states_of(parts));
  for (std::int64_t k = 0; k < model_.num_predictors(); ++k) {
    std::vector<std::int32_t> ahead;
    for (std::size_t n = 0; n < parts.size(); ++n) {
      const std::vector<std::int32_t> own = tokens_ahead(parts[n], first_of(parts[n]), k + 1, drafts[n]);
      ahead.insert(ahead.end(), own.begin(), own.end());
    }
    const Transformer::Output out =
        model_.predict(tape, pass, k, stream, Tensor::from<std::int32_t>(model_.memory(), {std::ssize(ahead)}, ahead));
    stream = out.stream;
    std::vector<std::size_t> wanting;
    for (std::size_t n = 0; n < parts.size(); ++n)
      if (parts[n].wanted > k) wanting.push_back(n);
    if (wanting.empty()) continue;
    const Tensor last = last_rows(out.hidden.value, batch, wanting);
    const std::vector<std::int32_t> chosen = choose(wanting, last, k);
    for (std::size_t i = 0; i < wanting.size(); ++i) drafts[wanting[i]].push_back(chosen[i]);
  }
  return drafts;
}

}  // namespace limbeck::nn
