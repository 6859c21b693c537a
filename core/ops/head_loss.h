// The fused head: output layer, objective and their gradients, a chunk of tokens at a time. Logits of all tokens never
// exist, neither the student's nor the teacher's.
//
//     OnlineTeacher teacher(teacher_hidden, teacher_head);                     // [T,Ct], [V,Ct]
//     Var loss = head_loss(tape, hidden, as_var(head), targets, objective, &teacher, *comms.tensor,
//                          {.weight = 1.0 / num_targets}, losses);
//     tape.backward(loss);
#pragma once

#include "core/ops/objective.h"
#include "core/tape.h"

namespace limbeck::core {

/// Logits [T,V_local] of hidden states [T,C], a head [V_local,C] and its bias [V_local], if it has one; float32 beside
/// bfloat16.
Tensor logits_of(const Tensor& hidden, const Tensor& head, const Tensor& bias = {});

/// Where a teacher's logits come from.
class TargetSource {
 public:
  virtual ~TargetSource() = default;
  /// Logits [count,V_local] of tokens [first, first+count), valid until the next call. Called in ascending order.
  virtual Tensor logits(std::int64_t first, std::int64_t count) = 0;
  /// Whether only a part of its distributions is known, which sparse() gives in place of logits().
  virtual bool is_sparse() const { return false; }
  virtual SparseTargets sparse(std::int64_t first, std::int64_t count);
  /// Whether its tokens are others: paired() gives what it says in place of logits().
  virtual bool is_paired() const { return false; }
  virtual PairedLogits paired(std::int64_t first, std::int64_t count);
};

/// A teacher that ran on the same tokens: its final hidden states (normalised) and its head, float or frozen bfloat16.
class OnlineTeacher final : public TargetSource {
 public:
  OnlineTeacher(Tensor hidden /*[T,Ct]*/, Tensor head /*[V_local,Ct]*/, Tensor bias /*[V_local], or none*/ = {});
  Tensor logits(std::int64_t first, std::int64_t count) override;

 private:
  Tensor hidden_;
  Tensor head_, bias_;
  Tensor buffer_;
};

struct HeadOptions {
  double weight = 1;                   // of a token's loss: 1 / global number of tokens with a target
  Tensor scale = {};                   // [1] float64, which the weight is times; undefined: 1
  Tensor row_weights = {};             // [T] float64, which a token's weight is times; undefined: 1
  std::int64_t chunk = 0;              // tokens whose logits exist at once; 0: as many as the device takes, 256 or more
  std::int64_t vocabulary_offset = 0;  // global index of the weight's first row
  std::int64_t valid_vocabulary = -1;  // global; rows of the weight from here on are padding. -1: none is
};

/// The loss (one element) over hidden [T,C], head weight [V_local,C] with its bias [V_local], if it has a value, and
/// targets [T] int32 (-1: no target), the same on every rank of `vocabulary`, as is the loss. The gradient of the
/// hidden states is of this rank's columns: `enter` or `enter_sequence`, which they come from, adds up all. It is
/// formed here, in the forward pass, as are the head's, for the loss's own gradient 1: backward throws if another one
/// arrives and the host can see it. Without any slot (evaluation) only losses are made. `losses` are added to, once
/// (not again in a replay). Memory: chunk * V_local for student and teacher, and [T,C].
Var head_loss(Tape& tape, const Var& hidden, const Var& weight, const Tensor& targets, const Objective& objective,
              TargetSource* teacher, nn::TensorComm& vocabulary, const HeadOptions& options, LossAccumulator& losses,
              const Var& bias = {});

}  // namespace limbeck::core
