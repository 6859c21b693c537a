// From sequences of a text to what a model sees, and a step's text of which each rank reads its own share.
//
//     nn::Batch batch = make_batch(rank.memory(), samples, 0, samples.num_sequences);
//     StepText step = text_of_step(mixture, next_sample, sequences_per_step);
//     data::TokenBatch mine = step.fetch(first, count);
#pragma once

#include <cstdint>
#include <functional>

#include "core/nn/cut_batch.h"
#include "data/text/mixture.h"

namespace limbeck::launch {

/// The sequences [first, first+count) of `samples` as a batch; their global token indices count from the step's first
/// sequence, which lies `before` sequences before the first of `samples`. `num_ahead`: depths of nn::Batch::ahead.
/// `place`: which of their tokens are taken; all, if nothing else is said. `with_runs` as make_cut_batch takes it.
nn::Batch make_batch(const core::MemoryPtr& memory, const data::TokenBatch& samples, std::int64_t first,
                     std::int64_t count, std::int64_t before = 0, std::int64_t num_ahead = 0,
                     nn::ContextPlace place = {}, bool with_runs = true);

/// All sequences of a step, the same on every rank.
struct StepText {
  std::int64_t num_sequences = 0;
  std::int64_t num_tokens = 0;
  std::int64_t num_targets = 0;  // those that are not -1
  std::int64_t num_pairs = 0;    // each a sequence, of preferences; 0: the text is of none
  std::function<data::TokenBatch(std::int64_t, std::int64_t)> fetch;  // (first, count): of the step's sequences

  StepText() = default;
  /// Those at hand.
  StepText(const data::TokenBatch& samples);  // NOLINT(google-explicit-constructor): a step's samples are its text
};

/// The first `length` tokens of each sequence.
data::TokenBatch begins_of(const data::TokenBatch& samples, std::int64_t length);

/// The same sequences of pairs, ending behind the longest pair and a few tokens.
data::TokenBatch without_filling(const data::TokenBatch& pairs);

/// The samples [first_sample, first_sample + count) of a text, which is read when they are fetched. Of pairs sequences
/// end behind the longest of the step, and a few tokens.
StepText text_of_step(data::Mixture& text, std::int64_t first_sample, std::int64_t count);

}  // namespace limbeck::launch
