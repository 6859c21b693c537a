// A model with other rows of embedding and head than its file has: more or fewer, which two models of one tokenizer
// need whose vocabularies are filled up to different sizes (Qwen2.5 has 151,936 and 152,064 rows for 151,665 tokens),
// or in another order, where another tokenizer has the same tokens under other ids.
//
//     VocabularyRows teacher_source(*reader, student.config().vocabulary);
//     teacher.load(teacher_source);
//     VocabularyRows by_text(*reader, vocabulary, {.rows = {2, 0, -1}, .pieces = {{2, {0, 1}}}});
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/state_dict.h"

namespace limbeck::nn {

/// Which of the source's rows is each token's.
struct TokenRows {
  std::vector<std::int64_t> rows;  // -1: the source has no such token
  /// Of tokens that the source has not: rows whose mean is their embedding, as if they were their parts.
  std::map<std::int64_t, std::vector<std::int64_t>> pieces;

  bool lacks_any() const;
};

/// Rows that the source lacks are zero. Only right where no token of the text has one of the rows that are cut or
/// added. Tokens that `rows` says it lacks have the embedding that TokenRows::pieces gives and kernels::lacking_logit
/// as their head's bias, which the model then has to have (ModelConfig::head_bias), whatever the source has.
class VocabularyRows final : public core::StateReader {
 public:
  VocabularyRows(const core::StateReader& source, std::int64_t vocabulary,
                 std::optional<TokenRows> rows = std::nullopt);
  std::string source() const override { return source_.source(); }
  const std::map<std::string, core::StateInfo>& tensors() const override { return tensors_; }

 private:
  void fill(const std::string& name, const core::StateInfo& info, core::StateEntry& entry) const override;
  void gather(const std::string& name, core::StateEntry& entry) const;
  void fill_lacking(const std::string& name, std::int64_t token, core::StateEntry& row) const;

  std::optional<core::Tensor> lend_box(const std::string& name, const core::StateInfo& info,
                                       const core::StateEntry& entry, const core::MemoryPtr& memory) const override;

  const core::StateReader& source_;
  std::optional<TokenRows> rows_;
  std::map<std::string, core::StateInfo> tensors_;
};

}  // namespace limbeck::nn
