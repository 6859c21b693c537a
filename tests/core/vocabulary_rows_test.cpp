#include "core/nn/student/vocabulary_rows.h"

#include <gtest/gtest.h>

#include <vector>

#include "kernels/distillation.h"

namespace limbeck::nn {
namespace {

using core::DType;
using core::Memory;
using core::Shape;
using core::StateEntry;
using core::Tensor;

/// Element i of each tensor is i + 1.
class Counting : public core::StateReader {
 public:
  std::string source() const override { return "counting"; }
  const std::map<std::string, core::StateInfo>& tensors() const override { return tensors_; }

 private:
  void fill(const std::string&, const core::StateInfo& info, StateEntry& entry) const override {
    for (std::int64_t i = 0; i < entry.tensor.numel(); ++i)
      entry.tensor.mutable_data<float>()[i] = static_cast<float>(entry.offset[0] * info.shape.row_size() + i + 1);
  }

  std::map<std::string, core::StateInfo> tensors_ = {{"embed.weight", {{3, 2}, DType::F32}},
                                                     {"head.weight", {{3, 2}, DType::F32}},
                                                     {"head.bias", {{3}, DType::F32}},
                                                     {"norm.weight", {{2}, DType::F32}}};
};

std::vector<float> rows(const core::StateReader& reader, const std::string& name, std::int64_t first,
                        std::int64_t count) {
  const Shape& global = reader.tensors().at(name).shape;
  StateEntry entry{global, {first, 0}, Tensor::zeros(Memory::cpu(1), DType::F32, {count, 2}), true};
  for (std::int64_t i = 0; i < entry.tensor.numel(); ++i) entry.tensor.mutable_data<float>()[i] = -7;
  reader.read(name, entry);
  return core::host_values<float>(entry.tensor);
}

using V = std::vector<float>;

TEST(VocabularyRows, RowsAreCutOrZero) {
  const Counting source;
  const VocabularyRows fewer(source, 2);
  EXPECT_EQ(fewer.tensors().at("head.weight").shape, (Shape{2, 2}));
  EXPECT_EQ(rows(fewer, "embed.weight", 0, 2), (V{1, 2, 3, 4}));
  const VocabularyRows more(source, 5);
  EXPECT_EQ(more.tensors().at("embed.weight").shape, (Shape{5, 2}));
  EXPECT_EQ(more.tensors().at("norm.weight").shape, (Shape{2}));
  EXPECT_EQ(rows(more, "head.weight", 0, 5), (V{1, 2, 3, 4, 5, 6, 0, 0, 0, 0}));
  // Parts, as the ranks of a tensor group read them.
  EXPECT_EQ(rows(more, "head.weight", 1, 2), (V{3, 4, 5, 6}));
  EXPECT_EQ(rows(more, "head.weight", 2, 2), (V{5, 6, 0, 0}));
  EXPECT_EQ(rows(more, "head.weight", 3, 2), (V{0, 0, 0, 0}));
  // A head's bias has an element a token.
  EXPECT_EQ(more.tensors().at("head.bias").shape, (Shape{5}));
  StateEntry bias{{5}, {1}, Tensor::zeros(Memory::cpu(1), DType::F32, {4}), true};
  more.read("head.bias", bias);
  EXPECT_EQ(core::host_values<float>(bias.tensor), (V{2, 3, 0, 0}));
}

// Token 0 is the source's 2, token 1 its 0; 2 is missing and read as the mean of 0 and 2; 3 is its 1, 4 is missing.
TEST(VocabularyRows, RowsAreThoseOfTheTokens) {
  const Counting source;
  const VocabularyRows by_text(source, 6, TokenRows{.rows = {2, 0, -1, 1, -1}, .pieces = {{2, {0, 2}}}});
  EXPECT_EQ(rows(by_text, "embed.weight", 0, 6), (V{5, 6, 1, 2, 3, 4, 3, 4, 0, 0, 0, 0}));
  EXPECT_EQ(rows(by_text, "head.weight", 0, 6), (V{5, 6, 1, 2, 0, 0, 3, 4, 0, 0, 0, 0}));
  EXPECT_EQ(rows(by_text, "embed.weight", 1, 2), (V{1, 2, 3, 4}));  // a rank's part
  EXPECT_EQ(rows(by_text, "head.weight", 3, 3), (V{3, 4, 0, 0, 0, 0}));
  EXPECT_EQ(by_text.tensors().at("norm.weight").shape, (Shape{2}));
  StateEntry bias{{6}, {1}, Tensor::zeros(Memory::cpu(1), DType::F32, {5}), true};
  by_text.read("head.bias", bias);
  EXPECT_EQ(core::host_values<float>(bias.tensor), (V{1, kernels::lacking_logit, 2, kernels::lacking_logit, 0}));
}

TEST(VocabularyRows, ABiasIsThereWhereATokenIsMissing) {
  /// The same without a bias of the head.
  class WithoutBias : public Counting {
   public:
    const std::map<std::string, core::StateInfo>& tensors() const override { return tensors_; }

   private:
    std::map<std::string, core::StateInfo> tensors_ = {{"head.weight", {{3, 2}, DType::F32}}};
  };
  const WithoutBias source;
  EXPECT_FALSE(VocabularyRows(source, 3, TokenRows{.rows = {2, 0, 1}, .pieces = {}}).tensors().contains("head.bias"));
  const VocabularyRows lacking(source, 3, TokenRows{.rows = {2, -1, 1}, .pieces = {}});
  EXPECT_EQ(rows(lacking, "head.weight", 0, 3), (V{5, 6, 0, 0, 3, 4}));
  StateEntry bias{{3}, {0}, Tensor::zeros(Memory::cpu(1), DType::F32, {3}), true};
  lacking.read("head.bias", bias);
  EXPECT_EQ(core::host_values<float>(bias.tensor), (V{0, kernels::lacking_logit, 0}));
}

}  // namespace
}  // namespace limbeck::nn
