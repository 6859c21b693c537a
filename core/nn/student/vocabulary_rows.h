// A model with more or fewer rows of embedding and head than its file has: what two models of one tokenizer need whose
// vocabularies are filled up to different sizes (Qwen2.5 has 151,936 and 152,064 rows for 151,665 tokens).
//
//     VocabularyRows teacher_source(*reader, student.config().vocabulary);
//     teacher.load(teacher_source);
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "core/state_dict.h"

namespace limbeck::nn {

/// Rows that the source lacks are zero. Only right where no token of the text has one of the rows that are cut or
/// added.
class VocabularyRows final : public core::StateReader {
 public:
  VocabularyRows(const core::StateReader& source, std::int64_t vocabulary);
  std::string source() const override { return source_.source(); }
  const std::map<std::string, core::StateInfo>& tensors() const override { return tensors_; }

 private:
  void fill(const std::string& name, const core::StateInfo& info, core::StateEntry& entry) const override;

  std::optional<core::Tensor> lend_box(const std::string& name, const core::StateInfo& info,
                                       const core::StateEntry& entry, const core::MemoryPtr& memory) const override;

  const core::StateReader& source_;
  std::map<std::string, core::StateInfo> tensors_;
};

}  // namespace limbeck::nn
