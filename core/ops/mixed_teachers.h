// Several teachers as one: at each token the mean of their distributions, by shares.
//
//     MixedTeachers teacher({{hidden_a, head_a, {}, shares_a}, {hidden_b, head_b, {}, shares_b}}, batch.targets,
//                           *comms.tensor, {.temperature = objective_temperature});                 // for head_loss
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/ops/head_loss.h"

namespace limbeck::core {

/// What a teacher gave, as OnlineTeacher takes it, and its share in the mean.
struct TeacherOutput {
  Tensor hidden;       // [T,Ct]
  Tensor head;         // [V_local,Ct]
  Tensor bias = {};    // [V_local], or none
  Tensor shares = {};  // [T] float64, 0 or more; of a teacher alone none
};

/// Logits whose softmax at `temperature` is p = sum_k shares_k softmax(z_k / temperature), made a chunk at a time of
/// one teacher's logits after the other's. A token that a teacher lacks has no probability with it; one that all lack
/// that have a share has kernels::lacking_logit.
class MixedTeachers final : public TargetSource {
 public:
  struct Options {
    double temperature = 1;
    std::int64_t vocabulary_offset = 0;  // as HeadOptions'
    std::int64_t valid_vocabulary = -1;
  };
  /// `targets` [T] int32, -1: none, whose rows say nothing. `vocabulary` must outlive this. Throws unless the teachers'
  /// logits are alike.
  MixedTeachers(std::vector<TeacherOutput> teachers, Tensor targets, nn::TensorComm& vocabulary,
                const Options& options);
  Tensor logits(std::int64_t first, std::int64_t count) override;

 private:
  std::vector<TeacherOutput> teachers_;
  Tensor targets_;
  nn::TensorComm& vocabulary_;
  Options options_;
  Tensor buffer_;
};

/// Of one teacher the source that it is alone, of several their mean.
std::unique_ptr<TargetSource> target_source(std::vector<TeacherOutput> teachers, const Tensor& targets,
                                            nn::TensorComm& vocabulary, const MixedTeachers::Options& options);

}  // namespace limbeck::core
