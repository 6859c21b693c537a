// Starting a student from a teacher's weights: which layers it keeps, and dense feed-forwards cut into experts. Each
// start is a StateReader over the teacher's, so a student loads it like any file, whatever its layout.
//
//     LayerSkip skipped(teacher_reader, teacher.config().num_layers, {0, 1, 2, 8, 29});
//     Upcycled student_source(skipped, dense /*ModelConfig of 5 layers*/,
//                             {.slices = 4, .experts = 8, .experts_per_token = 4}, /*renormalise=*/true, seed);
//     student.load(student_source);
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/nn/model_config.h"
#include "core/state_dict.h"

namespace limbeck::nn {

/// The `keep` layers of greatest influence, in ascending order (ShortGPT, arXiv 2403.03853); ties keep the lower layer.
std::vector<std::int64_t> layers_of_greatest_influence(std::span<const double> influence, std::int64_t keep);
/// `round(i * (num_layers - 1) / (keep - 1))` for i in [0, keep); the first layer where keep is 1.
std::vector<std::int64_t> evenly_spaced_layers(std::int64_t num_layers, std::int64_t keep);

/// The architecture of `layers` of a model, which stay what they are under their new numbers (`moe.dense_layers`,
/// `full_layers`, `mamba.attention_layers`). Layers that predict further tokens are as the last layer: they are kept
/// where the last that is kept is of the last one's kind. Throws a UsageError unless `layers` ascend and exist.
ModelConfig skip_layers(const ModelConfig& config, const std::vector<std::int64_t>& layers);

/// The source with layer i taken from its layer `layers[i]`.
class LayerSkip final : public core::StateReader {
 public:
  /// Throws a UsageError unless `layers` ascend and exist in a model of `num_layers`.
  LayerSkip(const core::StateReader& source, std::int64_t num_layers, std::vector<std::int64_t> layers);
  std::string source() const override { return source_.source(); }
  const std::map<std::string, core::StateInfo>& tensors() const override { return tensors_; }

 private:
  void fill(const std::string& name, const core::StateInfo& info, core::StateEntry& entry) const override;

  const core::StateReader& source_;
  std::map<std::string, core::StateInfo> tensors_;
  std::map<std::string, std::string> origin_;  // our name -> the source's
};

/// Throws a UsageError, naming `where`, unless a model is dense and its feed-forwards are such as experts are.
void check_upcyclable(const ModelConfig& dense, const std::string& where);

struct UpcycleShape {
  std::int64_t slices = 1;             // parts a dense feed-forward is cut into
  std::int64_t experts = 0;            // E = routed slices * copies
  std::int64_t experts_per_token = 0;  // K
  double router_deviation = 0.02;
  std::int64_t shared_slices = 0;  // the first, which every token sees; the others are routed, at least one
  bool shared_gate = false;        // behind a gate (MoeConfig::shared_gate)
  std::int64_t routed_slices() const { return slices - shared_slices; }
};

/// The architecture of a dense model with its feed-forwards cut so.
ModelConfig upcycled_config(const ModelConfig& dense, const UpcycleShape& shape, bool renormalise);

/// Dense feed-forwards as experts: expert = slice * copies + copy holds one of G routed slices, so that the ranks of an
/// expert-parallel group start balanced. A router row is random and shared by the slices of a copy, so the top K are
/// whole copies. Hidden states have a mean far from zero: of random rows one copy's logits would be greater for most
/// tokens. So a row is made orthogonal to that mean, once it is known (centre_routers), and each copy's logits have
/// mean zero. Routers of layers that predict further tokens stay as they were drawn.
///
/// The start is exact when the selected weights are renormalised and G divides K: `down` is multiplied by G. Otherwise
/// the three matrices are multiplied by A^(1/3), A = E G / K (softmax before the selection, not renormalised) or G.
/// Shared slices stay as they are; a gate starts as zeros, which let half through, and `down` is doubled.
class Upcycled final : public core::StateReader {
 public:
  /// Throws a UsageError where the slices do not divide mlp_width, none is routed, or those that are do not divide
  /// experts.
  Upcycled(const core::StateReader& source, const ModelConfig& dense, UpcycleShape shape, bool renormalise,
           std::uint64_t seed);
  std::string source() const override { return source_.source(); }
  const std::map<std::string, core::StateInfo>& tensors() const override { return tensors_; }

  /// From here on, router rows w of a layer are w - m (w . m) / (m . m), m the mean of what its router reads
  /// (router_inputs.h); as they are where m is zero.
  void centre_routers(std::vector<std::vector<double>> means /*[layer][C]*/) { means_ = std::move(means); }

  bool is_exact() const { return exact_; }
  /// The architecture of the result.
  ModelConfig model_config() const { return upcycled_config(dense_, shape_, renormalise_); }

 private:
  void fill(const std::string& name, const core::StateInfo& info, core::StateEntry& entry) const override;

  enum class Matrix : std::uint8_t { Gate, Up, Down };
  void read_experts(const std::string& dense_name, Matrix matrix, core::StateEntry& entry) const;
  void read_shared(const std::string& dense_name, Matrix matrix, core::StateEntry& entry) const;
  void read_router(const std::string& name, core::StateEntry& entry) const;
  /// [C]
  std::vector<double> router_row(const std::string& name, std::int64_t copy) const;

  const core::StateReader& source_;
  ModelConfig dense_;
  UpcycleShape shape_;
  bool renormalise_;
  std::uint64_t seed_;
  bool exact_;
  std::vector<std::vector<double>> means_;  // of router inputs; empty: not known
  std::map<std::string, core::StateInfo> tensors_;
};

}  // namespace limbeck::nn
