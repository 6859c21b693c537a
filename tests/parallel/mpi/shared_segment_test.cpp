#include "parallel/mpi/shared_segment.h"

#include <gtest/gtest.h>

#include <memory>
#include <numeric>
#include <vector>

namespace limbeck::parallel {
namespace {

/// As if two processes: each side maps the other's part anew.
struct Pair {
  SharedSegment first{0, 2}, second{1, 2};
  Pair() {
    const std::vector<SharedSegment::Offer> offers = {first.offer(), second.offer()};
    EXPECT_TRUE(first.join(offers));
    EXPECT_TRUE(second.join(offers));
  }
};

constexpr std::int64_t piece = SharedSegment::piece_bytes / 4;

std::vector<float> numbers(std::int64_t count, float first) {
  std::vector<float> values(static_cast<std::size_t>(count));
  std::iota(values.begin(), values.end(), first);
  return values;
}

SharedReduction reduction(SharedSegment& segment, std::vector<float>& values) {
  return {segment, core::DType::F32, core::Reduce::Sum, reinterpret_cast<std::byte*>(values.data()),
          static_cast<std::int64_t>(values.size())};
}

TEST(SharedSegment, SumsOverPieces) {
  Pair pair;
  for (const std::int64_t count : {piece * 5 + 3, std::int64_t{1}, piece}) {
    std::vector<float> a = numbers(count, 1), b = numbers(count, 100);
    SharedReduction one = reduction(pair.first, a), other = reduction(pair.second, b);
    bool one_is_done = false, other_is_done = false;
    for (int round = 0; round < 100 && !(one_is_done && other_is_done); ++round) {
      one_is_done = one.progress();
      other_is_done = other.progress();
    }
    ASSERT_TRUE(one_is_done && other_is_done);
    std::int64_t wrong = 0;
    for (std::int64_t i = 0; i < count; ++i) {
      const float sum = (1.0F + static_cast<float>(i)) + (100.0F + static_cast<float>(i));
      wrong += a[static_cast<std::size_t>(i)] != sum || b[static_cast<std::size_t>(i)] != sum;
    }
    EXPECT_EQ(wrong, 0);
  }
}

/// However long a sum is, operations of other groups get their turn between its pieces.
TEST(SharedReduction, MovesOnByOnePieceAtATime) {
  Pair pair;
  std::vector<float> a = numbers(piece * 8, 1), b = numbers(piece * 8, 2);
  SharedReduction one = reduction(pair.first, a), other = reduction(pair.second, b);
  for (std::int64_t calls = 1; !one.progress(); ++calls) {
    ASSERT_LE(pair.first.progress(0).in, calls);
    ASSERT_LE(pair.first.progress(0).reduced, calls);
    ASSERT_LE(pair.first.progress(0).out, calls);
    other.progress();
  }
}

TEST(SharedReduction, NamesWhoIsBehind) {
  Pair pair;
  std::vector<float> a = numbers(piece * 4, 1), b = numbers(piece * 4, 2);
  SharedReduction one = reduction(pair.first, a), other = reduction(pair.second, b);
  for (int i = 0; i < 10; ++i) one.progress();
  EXPECT_EQ(one.behind(), std::vector<int>{1});
  EXPECT_TRUE(other.behind().empty());
}

TEST(SharedSegment, RefusesWhatIsNoPartOfIt) {
  SharedSegment mine(0, 2), other(1, 2);
  SharedSegment::Offer gone = other.offer();
  {
    const SharedSegment ended(1, 2);
    gone = ended.offer();
  }
  EXPECT_FALSE(mine.join(std::vector{mine.offer(), SharedSegment::Offer{}}));
  EXPECT_FALSE(mine.join(std::vector{mine.offer(), gone}));
  SharedSegment::Offer wrong = other.offer();
  ++wrong.inode;
  EXPECT_FALSE(mine.join(std::vector{mine.offer(), wrong}));
  EXPECT_TRUE(mine.join(std::vector{mine.offer(), other.offer()}));
}

}  // namespace
}  // namespace limbeck::parallel
