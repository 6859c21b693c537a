// What a training objective is: it turns a chunk of the student's logits into their gradient, next to the teacher's
// logits of the same tokens. The head (core/ops/head_loss.h) hands it one chunk after the other; optim/objectives.h
// implements language modelling and distillation.
//
//     LossAccumulator losses(memory);
//     Var loss = head_loss(tape, hidden, head, targets, objective, &teacher, *tensor_comm, options, losses);
//     const LossStatistics statistics = losses.read();
//     statistics.kl / statistics.tokens;          // nats a token
#pragma once

#include <array>
#include <optional>
#include <span>
#include <vector>

#include "core/communicators.h"
#include "core/tensor.h"

namespace limbeck::core {

/// Of one token that has a target, in nats; what needs a teacher is 0 without one.
struct TokenLoss {
  double ce = 0;
  double teacher_ce = 0;
  double kl = 0;
  double agreement = 0;  // 0 or 1
  double sum_min = 0;
};

/// Sums over the tokens that have a target, in nats. Without a teacher the last four stay 0.
struct LossSums {
  double tokens = 0;      // that have a target
  double ce = 0;          // -log q(target) of the student
  double teacher_ce = 0;  // -log p(target) of the teacher
  double kl = 0;          // KL(p || q) at temperature 1
  double agreement = 0;   // tokens whose most likely next token is the same; ties go to the lower index
  double sum_min = 0;     // sum over v of min(p, q): the expected speculative acceptance

  void add(const LossSums& other);
};

/// What a training objective leaves behind.
struct LossStatistics : LossSums {
  double loss = 0;               // the objective: weighted, so it adds up to the loss of the step
  double ce_square = 0;          // with a teacher: of the gradients of its two parts with respect to the
  double divergence_square = 0;  // student's logits, the sums of squares
  std::vector<TokenLoss> each;   // of the tokens with a target, in order, if kept

  LossStatistics() = default;
  /// Of totals [num_loss_totals] (kernels/distillation.h).
  explicit LossStatistics(std::span<const double> totals);
};

/// The same where the logits are, to which objectives add without the host.
class LossAccumulator {
 public:
  explicit LossAccumulator(const MemoryPtr& memory, bool keeps_each = false);

  bool keeps_each() const { return keeps_each_; }
  Tensor& totals() { return totals_; }  // [num_loss_totals] float64
  const Tensor& totals() const { return totals_; }
  /// Room [n,num_loss_columns] float64 for the next n tokens, if each is kept.
  Tensor& next(std::int64_t n);
  /// Of all tokens [T,num_loss_columns], if each is kept: zeros where there is no target.
  Tensor each() const;
  /// Adds another part of the same batch.
  void add(const LossAccumulator& other);
  /// On the host: waits.
  LossStatistics read() const;

 private:
  bool keeps_each_;
  Tensor totals_;
  std::vector<Tensor> each_;
};

/// A part of a teacher's distributions (core/ops/sparse_targets.h): of n tokens up to `width` others. Floating-point
/// columns are of the logits' dtype.
struct SparseTargets {
  Tensor ids;                  // [n,width] int32 of the whole vocabulary, rising within a row; -1 behind a row's last
  Tensor log_p;                // [n,width] at temperature 1; of draws their shares
  Tensor rest;                 // [n] log-probability of all others, -infinity: none is left; of draws the entropy
  Tensor log_p_tempered = {};  // the same at `temperature`, where that is not 1
  Tensor rest_tempered = {};
  Tensor likeliest;    // [n] int32
  Tensor target_loss;  // [n]: -log p(target)
  double temperature = 1;
  bool draws = false;

  SparseTargets rows(std::int64_t first, std::int64_t count) const;
  /// All of them, some undefined at temperature 1.
  std::array<Tensor*, 7> columns();
  /// Throws, naming the column, where shapes or dtypes are not these.
  void check_valid(DType dtype) const;
};

/// What a teacher of other tokens says where it predicts the same bytes as one of n tokens (core/ops/paired_teacher.h).
struct PairedLogits {
  struct Vocabulary {
    std::int64_t size = 0;       // of the whole head
    std::int64_t num_valid = 0;  // tokens from here on are padding

    /// `valid`: as HeadOptions::valid_vocabulary.
    static constexpr Vocabulary of(std::int64_t size, std::int64_t valid) {
      return {size, valid < 0 || valid > size ? size : valid};
    }
  };
  Tensor logits;           // [m,V_local of the teacher], of the student's dtype
  Tensor pair_of;          // [n] int32: a token's row of the logits, plus `first`; -1: it has none
  std::int64_t first = 0;  // of all pairs the one that the first row is of
  Vocabulary student, teacher;
  Tensor totals;  // [num_sorted_columns] float64 (kernels/sorted_rows.h), to be added to
};

/// Logits of n tokens over this rank's part of the vocabulary.
struct LogitsChunk {
  Tensor student;   // [n,V_local], float32 or float64
  Tensor gradient;  // [n,V_local]: the objective writes d(loss)/d(logits); may be `student`, or
                    // bfloat16 beside float32 logits; undefined: not wanted
  Tensor teacher;   // [n,V_local], or undefined
  std::optional<SparseTargets> sparse = {};  // what is known of a teacher in place of its logits
  std::optional<PairedLogits> paired = {};   // likewise of one of other tokens
  Tensor targets;                            // [n] int32, global indices; -1: none
  std::int64_t vocabulary_offset = 0;        // global index of column 0
  std::int64_t num_valid = 0;                // columns from here on are padding: probability 0 on both sides
  double weight = 0;                         // of one token: 1 / global number of tokens with a target
  Tensor scale = {};                         // [1] float64, which the weight is times; undefined: 1
  Tensor row_weights = {};                   // [n] float64, which it is times too; undefined: 1
  nn::TensorComm& vocabulary;                // over which the vocabulary is cut
};

class Objective {
 public:
  virtual ~Objective() = default;
  virtual bool needs_teacher() const = 0;
  /// Adds to the losses; padding columns and tokens without a target get gradient 0.
  virtual void run(LogitsChunk& chunk, LossAccumulator& losses) const = 0;
};

}  // namespace limbeck::core
