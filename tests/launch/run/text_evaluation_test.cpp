#include "launch/run/text_evaluation.h"

#include <gmock/gmock.h>

#include <cmath>

#include "tests/support/temporary_folder.h"

namespace limbeck::launch {
namespace {

using ::testing::ElementsAre;
using testing::error_of;
using ::testing::HasSubstr;

std::vector<std::vector<std::int64_t>> windows(const std::vector<std::int64_t>& lengths, const WindowOptions& options) {
  std::vector<std::vector<std::int64_t>> rows;
  for (const Window& w : windows_of(lengths, options))
    rows.push_back({static_cast<std::int64_t>(w.document), w.first, w.count, w.num_scored});
  return rows;
}

TEST(Windows, OfALongDocumentOverlap) {
  // 11 tokens: 10 are predicted, from the 10 before them.
  EXPECT_THAT(windows({11}, {.length = 4, .stride = 2}), ElementsAre(ElementsAre(0, 0, 4, 4), ElementsAre(0, 2, 4, 2),
                                                                     ElementsAre(0, 4, 4, 2), ElementsAre(0, 6, 4, 2)));
  EXPECT_THAT(windows({11}, {.length = 4, .stride = 4}),
              ElementsAre(ElementsAre(0, 0, 4, 4), ElementsAre(0, 4, 4, 4), ElementsAre(0, 8, 2, 2)));
  EXPECT_THAT(windows({11}, {.length = 4, .stride = 3}),
              ElementsAre(ElementsAre(0, 0, 4, 4), ElementsAre(0, 3, 4, 3), ElementsAre(0, 6, 4, 3)));
}

TEST(Windows, AreOfOneDocumentEach) {
  EXPECT_THAT(
      windows({5, 1, 0, 2, 6}, {.length = 4, .stride = 2}),
      ElementsAre(ElementsAre(0, 0, 4, 4), ElementsAre(3, 0, 1, 1), ElementsAre(4, 0, 4, 4), ElementsAre(4, 2, 3, 1)));
}

TEST(Windows, ScoreEveryTokenOnceWithTheirLeastContext) {
  for (const std::int64_t n : {2, 3, 7, 8, 9, 40})
    for (const std::int64_t length : {1, 2, 5, 8, 64})
      for (std::int64_t stride = 1; stride <= length; ++stride) {
        std::int64_t next = 1;
        for (const Window& w : windows_of(std::vector{n}, {.length = length, .stride = stride})) {
          const std::int64_t first_scored = w.first + w.count - w.num_scored + 1;
          EXPECT_EQ(first_scored, next);
          EXPECT_LE(w.count, length);
          EXPECT_GE(first_scored - w.first, w.first == 0 ? 1 : length - stride + 1);
          next = w.first + w.count + 1;
        }
        EXPECT_EQ(next, n) << n << " " << length << " " << stride;
      }
}

TEST(Windows, ImpossibleOnesAreRefused) {
  for (const WindowOptions options : {WindowOptions{0, 0}, WindowOptions{4, 0}, WindowOptions{4, 5}})
    EXPECT_THAT(error_of([&] { windows_of(std::vector<std::int64_t>{9}, options); }), HasSubstr("expected a stride"));
}

TEST(Evaluation, BitsAreOfTheTextsBytes) {
  Evaluation e;
  e.tokens = 3;
  e.cross_entropy = 2 * std::log(2.0);  // a token has two bits
  EXPECT_EQ(e.bits_per_byte(), std::nullopt);
  e.bytes = 10;
  ASSERT_TRUE(e.bits_per_byte());
  EXPECT_DOUBLE_EQ(*e.bits_per_byte(), 0.6);
  EXPECT_DOUBLE_EQ(e.perplexity(), 4);
}

}  // namespace
}  // namespace limbeck::launch
