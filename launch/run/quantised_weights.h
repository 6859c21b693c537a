// Training for a quantised file: passes see the trained matrices as a GGUF file holds them
// (precision.quantised_weights), the optimizer steps float32 master weights (optim/master_weights.h), and the gradient
// of the one is the other's (straight-through: Bengio et al. 2013, "Estimating or propagating gradients through
// stochastic neurons").
//
//     quantise_in_passes(*student, config.precision.quantised_weights, threads);         // before there is an
//     optimizer data::export_gguf(MasterReader(*checkpoint), ...);                        // the blocks that the passes
//     saw
#pragma once

#include <map>
#include <string>

#include "core/nn/transformer.h"
#include "core/state_dict.h"
#include "launch/config/config.h"

namespace limbeck::launch {

/// What `limbeck convert --dtype` calls it, and what data::GgufExport takes. Not of None.
struct QuantisedName {
  const char* name;
  core::DType dtype;
};
QuantisedName name_of(QuantisedWeights weights);

/// Which model one is that is read as such blocks: another one than that of the fingerprint.
std::string quantised_fingerprint(const std::string& fingerprint, QuantisedWeights weights);

/// Each matrix that `limbeck convert` would quantise is rounded so (Parameter::rounding), in the format that it chooses
/// for it, on so many threads. Throws a UsageError for a model that no GGUF file holds, for a frozen matrix, and where
/// ranks cut within blocks.
void quantise_in_passes(nn::Transformer& model, QuantisedWeights weights, int threads);

/// A checkpoint of such a run with the master weights for weights, where there are some: what is to be quantised.
class MasterReader final : public core::StateReader {
 public:
  explicit MasterReader(const core::StateReader& checkpoint);
  std::string source() const override { return checkpoint_.source(); }
  const std::map<std::string, core::StateInfo>& tensors() const override { return tensors_; }

 private:
  void fill(const std::string& name, const core::StateInfo& info, core::StateEntry& entry) const override;

  const core::StateReader& checkpoint_;
  std::map<std::string, core::StateInfo> tensors_;
};

}  // namespace limbeck::launch
