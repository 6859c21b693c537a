// A model whose matrices come as a GGUF file of it would hold them, whatever its source keeps: rounded when they are
// asked for, some rows at a time on several threads, so that no more than those exist in floats.
//
//     QuantisedReader teacher(*reader, config, DType::Q4_K, threads);
//     model.load(teacher);                                                   // ModelOptions::as_kept: blocks
#pragma once

#include <map>
#include <string>

#include "core/nn/model_config.h"
#include "core/state_dict.h"
#include "data/models/gguf_choice.h"

namespace limbeck::data {

class QuantisedReader final : public core::StateReader {
 public:
  /// `wanted` is what GgufExport::dtype says. `source` may have another vocabulary than the config's model and must
  /// outlive this. Throws a UsageError, in front of which stands `what`, where no GGUF file holds the model.
  QuantisedReader(const core::StateReader& source, const nn::ModelConfig& config, core::DType wanted, int threads,
                  const std::string& what);
  std::string source() const override { return source_.source(); }
  const std::map<std::string, core::StateInfo>& tensors() const override { return tensors_; }

 private:
  /// The values of the blocks, also of a box that cuts them.
  void fill(const std::string& name, const core::StateInfo& info, core::StateEntry& entry) const override;
  /// Not of a box that cuts blocks. What stays float32 is a copy.
  std::optional<core::Tensor> lend_box(const std::string& name, const core::StateInfo& info,
                                       const core::StateEntry& entry, const core::MemoryPtr& memory) const override;
  /// A box, in the dtype of the tensor. Its last dimension is whole blocks.
  core::Tensor rounded(const std::string& name, const core::StateInfo& info, const std::vector<std::int64_t>& offset,
                       const core::Shape& box, const core::MemoryPtr& memory) const;
  bool is_rounded(const std::string& name) const;

  const core::StateReader& source_;
  int threads_;
  std::map<std::string, core::StateInfo> tensors_;  // with the dtypes that they have in the file
  std::map<std::string, GgufKept> kept_;
};

}  // namespace limbeck::data
