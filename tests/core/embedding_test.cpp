#include "core/ops/embedding.h"

#include <gmock/gmock.h>

#include "tests/support/gradient_check.h"
#include "tests/support/tensors.h"

namespace limbeck::core {
namespace {

using testing::bit_identical;
using testing::check_gradients;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::random_tensor;
using testing::tensor;
using ::testing::ThrowsMessage;

const auto memory = Memory::cpu(2);

TEST(Embedding, Values) {
  Tape tape;
  const Tensor w = tensor<float>(memory, {3, 2}, {1, 2, 3, 4, 5, 6});
  const Tensor tokens = tensor<std::int32_t>(memory, {3}, {2, 0, 2});
  EXPECT_THAT(host_values<float>(embedding(tape, tokens, constant(w)).value), ElementsAre(5, 6, 1, 2, 5, 6));
  EXPECT_THAT(host_values<float>(embedding(tape, tokens, constant(w.to(DType::BF16))).value),
              ElementsAre(5, 6, 1, 2, 5, 6));
}

TEST(Embedding, Gradients) {
  for (const std::int64_t count : {0, 1, 6}) {
    const std::vector<std::int32_t> all{4, 0, 4, 4, 2, 0};
    const Tensor tokens = tensor<std::int32_t>(memory, {count}, {all.begin(), all.begin() + count});
    check_gradients([&](Tape& tape, std::span<const Var> in) { return embedding(tape, tokens, in[0]); },
                    {random_tensor(memory, {5, 3}, 1)});
  }
}

TEST(Embedding, PartsOfAVocabularyAddUpToTheWhole) {
  const Tensor whole = random_tensor(memory, {7, 3}, 1);
  const Tensor tokens = tensor<std::int32_t>(memory, {5}, {6, 0, 3, 2, 3});
  Tape tape;
  const Tensor expected = embedding(tape, tokens, constant(whole)).value;
  Tensor sum = zeros_like(expected);
  for (const auto& [first, rows] : std::vector<std::pair<std::int64_t, std::int64_t>>{{0, 3}, {3, 0}, {3, 4}}) {
    const VocabularyPart part{.first = first, .total = 7};
    const Tensor y = embedding(tape, tokens, constant(whole.rows(first, rows)), part).value;
    for (std::int64_t i = 0; i < sum.numel(); ++i) sum.mutable_data<double>()[i] += y.data<double>()[i];
    check_gradients([&](Tape& t, std::span<const Var> in) { return embedding(t, tokens, in[0], part); },
                    {whole.rows(first, rows).clone()});
  }
  EXPECT_TRUE(bit_identical(sum, expected));
  EXPECT_THROW(embedding(tape, tensor<std::int32_t>(memory, {1}, {7}), constant(whole.rows(0, 3)), {0, 7}), Error);
}

TEST(Embedding, ThreadsChangeNoBitOfTheGradient) {
  std::vector<std::int32_t> ids(500);
  for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<std::int32_t>(i * i % 7);
  const auto gradient_on = [&](const MemoryPtr& on) {
    Tape tape;
    const Var w = leaf(Tensor::zeros(on, DType::F32, {7, 131}));
    const Var y = embedding(tape, tensor<std::int32_t>(on, {500}, ids), w);
    accumulate(y.slot, random_tensor(on, {500, 131}, 5, 1.0, DType::F32));
    tape.run();
    return w.slot->grad;
  };
  EXPECT_TRUE(bit_identical(gradient_on(Memory::cpu(1)), gradient_on(Memory::cpu(3))));
}

TEST(Embedding, BadInput) {
  Tape tape;
  const Tensor w = Tensor::zeros(memory, DType::F32, {3, 2});
  EXPECT_THAT(
      [&] {
        embedding(tape, tensor<std::int32_t>(memory, {3}, {0, 1, 3}), constant(w));
      },
      ThrowsMessage<Error>("embedding: token 3 at position 2 is not in the vocabulary of 3"));
  EXPECT_THAT([&] { embedding(tape, tensor<std::int32_t>(memory, {1}, {-5}), constant(w)); },
              ThrowsMessage<Error>(HasSubstr("token -5 at position 0")));
  EXPECT_THAT(
      [&] {
        embedding(tape, Tensor::zeros(memory, DType::I32, {2, 2}), constant(w));
      },
      ThrowsMessage<Error>(HasSubstr("tokens have shape [2,2], expected [T]")));
}

}  // namespace
}  // namespace limbeck::core
