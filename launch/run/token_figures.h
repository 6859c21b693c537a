// What models lose on tokens, and how sure they are, token by token in the order of a text: each rank measures its own,
// and then all have all, so that what is summed afterwards is summed in one order, whichever rank had them.
//
//     TokenRows rows(rank, num_tokens, /*teacher=*/std::nullopt);
//     for (const TokenFigures& token : token_figures(rank, targets, predictions, -1)) rows.set(place++, token);
//     rows.gather();
//     FigureSums sums;
//     for (std::int64_t t = 0; t < rows.size(); ++t) sums.add(rows[t]);
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "core/ops/mixed_teachers.h"
#include "core/ops/objective.h"
#include "core/tensor.h"
#include "launch/run/calibration.h"
#include "launch/run/known_teacher.h"
#include "launch/run/rank.h"

namespace limbeck::launch {

/// What a model holds most likely; of equal ones the lowest index.
struct TopPrediction {
  double probability = 0;
  bool is_right = false;  // it is the target
};

/// KL, agreement and sum min(p, q) are of what is known of the teacher (known_teacher.h).
struct TokenFigures : core::TokenLoss {
  TopPrediction top, teacher_top;  // of probability 0: not known
};

/// Sums over tokens.
struct FigureSums : core::LossSums {
  Calibration calibration, teacher_calibration;

  void add(const TokenFigures& token);
  void add(const FigureSums& other);
};

class TokenRows {
 public:
  /// `teacher`: what is known of it; nothing without one.
  TokenRows(Rank& rank, std::int64_t rows, std::optional<Known> teacher);

  /// A row is one rank's alone.
  void set(std::int64_t row, const TokenFigures& token);
  /// Collective over the ranks that have other data, or other layers: what any of them set.
  void gather();
  /// Nothing where no rank set it.
  std::optional<TokenFigures> operator[](std::int64_t row) const;
  std::int64_t size() const { return rows_; }
  std::optional<Known> teacher() const { return teacher_; }

 private:
  Rank& rank_;
  std::int64_t rows_;
  std::optional<Known> teacher_;
  core::Tensor values_;  // [rows,columns] float64
};

/// What a model predicts with: hidden states and this rank's part of the vocabulary.
struct Predictions {
  core::Tensor hidden;                             // [T,C]
  core::Tensor head;                               // [V_local,C]
  core::Tensor head_bias = {};                     // [V_local]; undefined: there is none
  std::int64_t vocabulary_offset = 0;              // global index of the head's first row
  std::vector<core::TeacherOutput> teachers = {};  // that they are held against: none, one, or the mean of several
  core::TargetSource* source = nullptr;            // in the place of those: logits, or a part of the distributions
};

/// The figures of the tokens of [T] `targets` that are not -1, in order. Collective over a tensor group, whose ranks
/// get the same. Tokens from `valid_vocabulary` on are padding; -1: none is.
std::vector<TokenFigures> token_figures(Rank& rank, const core::Tensor& targets, const Predictions& predictions,
                                        std::int64_t valid_vocabulary);

}  // namespace limbeck::launch
