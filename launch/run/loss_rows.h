// What models lose on tokens, kept apart by rows that whoever measures chooses: a row a token, a window, a document.
// Each rank fills in its own, and then all have all; what is summed afterwards is summed in the order of the rows,
// whichever rank had them.
//
//     LossRows rows(rank, num_windows);
//     rows.add(window, token);                       // of what this rank measured
//     const std::vector<LossSums> all = rows.gather();
#pragma once

#include <cstdint>
#include <vector>

#include "core/nn/batch.h"
#include "core/ops/objective.h"
#include "launch/run/rank.h"

namespace limbeck::launch {

using core::LossSums;

class LossRows {
 public:
  LossRows(Rank& rank, std::int64_t rows);

  void add(std::int64_t row, const core::TokenLoss& token);
  /// Collective over the ranks that have other data: what any of them added. A row is one rank's alone.
  std::vector<LossSums> gather() const;

 private:
  Rank& rank_;
  std::vector<LossSums> rows_;
};

/// What a model predicts with: hidden states and this rank's part of the vocabulary.
struct Predictions {
  core::Tensor hidden;                 // [T,C]
  core::Tensor head;                   // [V_local,C]
  core::Tensor head_bias = {};         // [V_local]; undefined: there is none
  std::int64_t vocabulary_offset = 0;  // global index of the head's first row
  core::Tensor teacher_hidden = {};    // [T,Ct]; undefined: there is no teacher
  core::Tensor teacher_head = {};      // [V_local,Ct]
  core::Tensor teacher_head_bias = {};
};

/// The losses of the tokens of [T] `targets` that are not -1, in order. Collective over a tensor group, whose ranks get
/// the same. Tokens from `valid_vocabulary` on are padding; -1: none is.
std::vector<core::TokenLoss> token_losses(Rank& rank, const core::Tensor& targets, const Predictions& predictions,
                                          std::int64_t valid_vocabulary);

}  // namespace limbeck::launch
