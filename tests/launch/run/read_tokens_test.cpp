#include "launch/run/read_tokens.h"

#include <fmt/format.h>
#include <gmock/gmock.h>

#include <map>
#include <utility>

#include "launch/run/rank.h"
#include "tests/support/thread_ranks.h"

namespace limbeck::launch {
namespace {

TEST(ReadTokens, PlacesAreThoseOfTheMesh) {
  for (const char* layout : {"dp8", "tp2", "cp2tp2", "pp2cp2tp2", "pp4tp2", "ep4", "pp2"})
    testing::run_ranks(8, [&](testing::RankWorld& world) {
      SCOPED_TRACE(fmt::format("{} of rank {}", layout, world.rank));
      const Rank rank(world.comm, layout, 1);
      const ReaderPlace place = place_of_reader(rank.mesh().layout(), 8, world.rank);
      EXPECT_EQ(place.stage, rank.mesh().pp().rank());
      EXPECT_EQ(place.data, rank.mesh().dp().rank());
      EXPECT_EQ(place.num_data, rank.mesh().dp().size());
      EXPECT_EQ(place.context.rank, rank.context_place().rank);
      EXPECT_EQ(place.context.size, rank.context_place().size);
      EXPECT_EQ(place.tensor, rank.mesh().tp().rank());
    });
}

/// Number of the token in the text, row by row.
std::vector<std::int64_t> tokens_of(const ReadTokens& reader, std::int64_t length) {
  std::vector<std::int64_t> tokens;
  for (std::int64_t n = 0; n < reader.sequences.count; ++n)
    for (const core::Slice& piece : nn::pieces_of(length, reader.context))
      for (std::int64_t i = 0; i < piece.count; ++i)
        tokens.push_back((reader.sequences.first + n) * length + piece.first + i);
  return tokens;
}

TEST(ReadTokens, CommonRowsAreOfTheSameTokens) {
  const std::int64_t length = 7;  // which no number of pieces divides
  std::vector<ReadTokens> readers;
  for (const core::Slice& sequences : {core::Slice{0, 5}, core::Slice{1, 2}, core::Slice{2, 3}, core::Slice{4, 0}})
    for (const std::int64_t size : {1, 2, 3, 5})
      for (std::int64_t r = 0; r < size; ++r) readers.push_back({sequences, {r, size}});
  for (const ReadTokens& a : readers)
    for (const ReadTokens& b : readers) {
      const std::vector<std::int64_t> of_a = tokens_of(a, length), of_b = tokens_of(b, length);
      EXPECT_EQ(a.num_rows(length), std::ssize(of_a));
      std::map<std::int64_t, std::int64_t> expected, found;  // row of a, row of b
      for (std::size_t i = 0; i < of_a.size(); ++i)
        for (std::size_t j = 0; j < of_b.size(); ++j)
          if (of_a[i] == of_b[j]) expected[static_cast<std::int64_t>(i)] = static_cast<std::int64_t>(j);
      for (const CommonRows& run : common_rows(a, b, length))
        for (std::int64_t i = 0; i < run.count; ++i) found[run.in_first + i] = run.in_second + i;
      ASSERT_EQ(found, expected);
    }
}

// What lies together on both sides goes as one.
TEST(ReadTokens, RunsAreAsLongAsTheyCanBe) {
  EXPECT_THAT(common_rows({{0, 4}, {}}, {{1, 2}, {}}, 6), ::testing::ElementsAre(CommonRows{6, 0, 12}));
  EXPECT_THAT(common_rows({{0, 1}, {}}, {{0, 1}, {0, 2}}, 8),
              ::testing::ElementsAre(CommonRows{0, 0, 2}, CommonRows{6, 2, 2}));
}

}  // namespace
}  // namespace limbeck::launch
