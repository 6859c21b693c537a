// A model with some of its tokens alone: the rows of embedding and head that are theirs.
//
//     TokenRows fewer(teacher_reader, {0, 1, 2, 17, 30});
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/state_dict.h"

namespace limbeck::nn {

/// Over what is left, its distribution is the source's, scaled to sum 1.
class TokenRows final : public core::StateReader {
 public:
  /// `ids` [V]: of each token the source's. Throws where a table of the source has no such row.
  TokenRows(std::shared_ptr<const core::StateReader> source, std::vector<std::int64_t> ids);
  std::string source() const override { return source_->source(); }
  const std::map<std::string, core::StateInfo>& tensors() const override { return tensors_; }

 private:
  void fill(const std::string& name, const core::StateInfo& info, core::StateEntry& entry) const override;
  std::optional<core::Tensor> lend_box(const std::string& name, const core::StateInfo& info,
                                       const core::StateEntry& entry, const core::MemoryPtr& memory) const override;

  std::shared_ptr<const core::StateReader> source_;
  std::vector<std::int64_t> ids_;
  std::map<std::string, core::StateInfo> tensors_;
};

}  // namespace limbeck::nn
