// Low-rank adapters (LoRA, Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models"): a matrix W of a model
// stays as it is, and what is trained is A [r,in] and B [out,r] of y = W x + (alpha/r) B A x. B begins at zero, so the
// start is the model itself.
//
//     Adapters adapters(model, {.rank = 8, .alpha = 16, .targets = {"*.attention.*"}}, DType::F32);
//     adapters.init_random(seed);
//     AdamW adamw(whole_fragments(adapters.parameters()), {});             // the model has no slots any more
//
//     MergedAdapters merged(base, checkpoint, 16.0 / 8);                   // a StateReader: W + (alpha/r) B A
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/nn/transformer.h"
#include "core/parameter_set.h"

namespace limbeck::nn {

struct AdapterOptions {
  std::int64_t rank = 8;
  double alpha = 16;
  std::vector<std::string> targets;  // patterns of parameters' names (core::is_of_pattern)
  double scale() const { return alpha / static_cast<double>(rank); }
  friend bool operator==(const AdapterOptions&, const AdapterOptions&) = default;
};

/// Whether it is one of the matrices that can have an adapter: those of attention and of dense and shared
/// feed-forwards, and stacks of experts.
bool takes_adapter(const Parameter& parameter);

/// "adapters/layers.0.attention.q.weight/a"
std::string adapter_name(const std::string& parameter, char factor);

class Adapters {
 public:
  /// Adds them to the matrices that the patterns name, and takes the slots of all of the model's parameters away. They
  /// are cut as their matrices are, `place` being the model's. To be there as long as the model is used. Collective over
  /// the stages of a pipeline, each of which has those of its layers. Throws a UsageError, naming the pattern, for one
  /// that names no matrix of any stage that can have an adapter; and where experts are cut within.
  Adapters(Transformer& model, const AdapterOptions& options, core::DType dtype, core::PlacementRule place = {});
  Adapters(const Adapters&) = delete;
  Adapters& operator=(const Adapters&) = delete;

  const AdapterOptions& options() const { return options_; }
  core::ParameterList parameters() { return parameters_.list(); }
  /// A normal with deviation 1/sqrt(3 in), B zero; a function of seed, name and global index alone.
  void init_random(std::uint64_t seed);
  void load(const core::StateReader& reader);
  core::StateDict state_dict();

 private:
  void add(Parameter& weight);

  AdapterOptions options_;
  core::ParameterSet parameters_;
};

/// A model with its adapters merged: W + scale B A of the matrices that have some, computed in float64, and the others
/// as the base has them. `adapters` has tensors by adapter_name.
class MergedAdapters final : public core::StateReader {
 public:
  MergedAdapters(std::shared_ptr<const core::StateReader> base, std::shared_ptr<const core::StateReader> adapters,
                 double scale);
  std::string source() const override { return adapters_->source(); }
  const std::map<std::string, core::StateInfo>& tensors() const override { return tensors_; }

 private:
  void fill(const std::string& name, const core::StateInfo& info, core::StateEntry& entry) const override;
  std::optional<Tensor> lend_box(const std::string& name, const core::StateInfo& info, const core::StateEntry& entry,
                                 const MemoryPtr& memory) const override;
  bool has_adapter(const std::string& name) const;

  std::shared_ptr<const core::StateReader> base_, adapters_;
  double scale_;
  std::map<std::string, core::StateInfo> tensors_;
};

}  // namespace limbeck::nn
