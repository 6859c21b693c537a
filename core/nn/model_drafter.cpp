#include "core/nn/model_drafter.h"

#include <algorithm>
#include <utility>

namespace limbeck::nn {

ModelDrafter::ModelDrafter(const Transformer& model, std::int64_t num_slots, std::int64_t num_drafts)
    : model_(model),
      num_drafts_(num_drafts),
      cache_(model.make_cache(num_slots)),
      is_long_(static_cast<std::size_t>(num_slots)) {
  core::check(num_drafts > 0, "drafts: {} a text are asked for, expected one or more", num_drafts);
}

// All but the last draft are run, behind the text.
std::int64_t ModelDrafter::most(std::int64_t size) const {
  const std::int64_t long_from = model_.config().long_context_from();
  std::int64_t positions = model_.config().max_positions;
  if (long_from > 0 && size <= long_from) positions = std::min(positions, long_from);
  return std::clamp<std::int64_t>(positions - size + 1, 0, num_drafts_);
}

void ModelDrafter::clear(std::int64_t slot) { cache_.clear(slot); }

// Of a text that is still read, as much as the model has run, so that a pass has no more of it here than there. What
// is turned as a short text is run anew when the text is long.
ModelDrafter::Round ModelDrafter::unseen_of(std::span<const DraftPart> parts) {
  Round round;
  const std::int64_t long_from = model_.config().long_context_from();
  const std::int64_t vocabulary = model_.config().vocabulary;
  for (std::size_t n = 0; n < parts.size(); ++n) {
    const DraftPart& part = parts[n];
    const std::int64_t end = part.end + (part.wanted > 0 ? 1 : 0), context = std::max(part.context, end);
    const bool is_long = long_from > 0 && context > long_from;
    if (is_long != is_long_[static_cast<std::size_t>(part.slot)]) clear(part.slot);
    is_long_[static_cast<std::size_t>(part.slot)] = is_long;
    if (has_states()) cache_.go_back(part.slot);  // to where no draft had been run
    cache_.truncate(part.slot, std::min(cache_.length(part.slot), part.end));
    round.parts.push_back(n);
    round.contexts.push_back(context);
    std::vector<std::int32_t>& own = round.tokens.emplace_back();
    if (part.tokens.empty()) continue;
    own.assign(part.tokens.begin() + cache_.length(part.slot), part.tokens.begin() + end);
    // Padding of a larger head may be chosen where it is not ruled out; what it is read as changes drafts alone.
    std::ranges::replace_if(
        own, [&](std::int32_t token) { return token >= vocabulary; }, 0);
  }
  return round;
}

Batch ModelDrafter::batch_of(std::span<const DraftPart> parts, const Round& round,
                             std::vector<std::int64_t>& slots) const {
  std::vector<TextPart> texts;
  for (std::size_t i = 0; i < round.parts.size(); ++i) {
    slots.push_back(parts[round.parts[i]].slot);
    texts.push_back({round.tokens[i], cache_.length(slots.back()), round.contexts[i]});
  }
  return sequences_of(model_.memory(), texts);
}

std::vector<std::vector<std::int32_t>> ModelDrafter::draft(std::span<const DraftPart> parts, const Choose& choose) {
  std::vector<std::vector<std::int32_t>> drafts(parts.size());
  if (parts.empty()) return drafts;
  Tape tape(Tape::Mode::Off);
  Round round = unseen_of(parts);
  for (std::int64_t k = 0; !round.parts.empty(); ++k) {
    std::vector<std::int64_t> slots;
    const Batch batch = batch_of(parts, round, slots);
    const Pass pass = model_.pass(batch, cache_, slots);
    const Tensor hidden = model_.forward(tape, pass).hidden.value;
    if (k == 0 && has_states())
      for (const std::int64_t slot : slots) cache_.keep(slot);
    std::vector<std::size_t> wanting, places;
    for (std::size_t i = 0; i < round.parts.size(); ++i)
      if (parts[round.parts[i]].wanted > k) {
        wanting.push_back(round.parts[i]);
        places.push_back(i);
      }
    if (wanting.empty()) break;
    const std::vector<std::int32_t> chosen = choose(wanting, last_rows(hidden, batch, places), k);
    Round next;
    for (std::size_t i = 0; i < wanting.size(); ++i) {
      const DraftPart& part = parts[wanting[i]];
      drafts[wanting[i]].push_back(chosen[i]);
      if (part.wanted <= k + 1) continue;
      next.parts.push_back(wanting[i]);
      next.contexts.push_back(round.contexts[places[i]] + 1);
      next.tokens.emplace_back();
      if (!part.tokens.empty()) next.tokens.back() = {chosen[i]};
    }
    round = std::move(next);
  }
  return drafts;
}

}  // namespace limbeck::nn
