#include "core/ops/capacity.h"

#include <gmock/gmock.h>

#include "tests/support/tensors.h"

namespace limbeck::core {
namespace {

using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
using ::testing::HasSubstr;
using testing::tensor;
using ::testing::ThrowsMessage;

const auto memory = Memory::cpu(1);

std::vector<std::int32_t> kept(const std::vector<std::int32_t>& selection, std::int64_t selected,
                               const std::vector<std::int32_t>& sequence, std::int64_t experts, double factor) {
  const auto tokens = static_cast<std::int64_t>(sequence.size());
  return host_values<std::int32_t>(limit_capacity(Tensor::from<std::int32_t>(memory, {tokens, selected}, selection),
                                                  Tensor::from<std::int32_t>(memory, {tokens}, sequence), experts,
                                                  factor));
}

// 4 tokens, 2 choices, 4 experts: an even share of 2. Expert 0 is chosen by all four.
TEST(Capacity, TheFirstTokensOfASequenceAreKept) {
  const std::vector<std::int32_t> chosen = {0, 1, 2, 0, 0, 3, 1, 0}, one(4, 7);
  EXPECT_THAT(kept(chosen, 2, one, 4, 1), ElementsAre(0, 1, 2, 0, -1, 3, 1, -1));
  EXPECT_THAT(kept(chosen, 2, one, 4, 0.5), ElementsAre(0, 1, 2, -1, -1, 3, -1, -1));
  EXPECT_THAT(kept(chosen, 2, one, 4, 1.01), ElementsAre(0, 1, 2, 0, 0, 3, 1, -1));  // 2.02: 3 fit
  EXPECT_THAT(kept(chosen, 2, one, 4, 2), ElementsAreArray(chosen));
}

TEST(Capacity, EachSequenceHasItsOwn) {
  const std::vector<std::int32_t> same(6, 1);
  EXPECT_THAT(kept(same, 1, {0, 0, 0, 0, 1, 1}, 2, 1), ElementsAre(1, 1, -1, -1, 1, -1));
  // The last sequence's fate does not depend on the ones before it.
  EXPECT_THAT(kept({1, 1}, 1, {3, 3}, 2, 1), ElementsAre(1, -1));
}

TEST(Capacity, NoTokenAndATinyFactor) {
  EXPECT_THAT(kept({}, 2, {}, 4, 1), ElementsAre());
  EXPECT_THAT(kept({0, 1, 1, 0}, 2, {0, 0}, 2, 1e-9), ElementsAre(0, 1, -1, -1));  // rounded up to one
}

TEST(Capacity, BadInput) {
  EXPECT_THAT([] { kept({0, 4}, 2, {0}, 4, 1); }, ThrowsMessage<Error>(HasSubstr("assignment 1 is to expert ")));
  EXPECT_THAT([] { kept({0, 1}, 2, {0}, 4, 0); }, ThrowsMessage<Error>(HasSubstr("the factor is 0")));
  EXPECT_THAT([] { kept({0, 1}, 1, {0}, 4, 1); }, ::testing::Throws<Error>());
}

}  // namespace
}  // namespace limbeck::core
