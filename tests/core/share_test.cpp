#include "core/share.h"

#include <gtest/gtest.h>

#include <vector>

namespace limbeck::core {
namespace {

const std::vector<Shape> shapes{{1},       {7},       {64},      {1, 9},    {5, 3}, {12, 8},
                                {3, 4, 5}, {1, 7, 2}, {8, 2, 3}, {2, 6, 2}, {4, 0}, {0, 3, 2}};

// In order, all of it, and each share a box: rows of one matrix, or whole matrices.
TEST(ShareOf, TilesAnyShapeByBoxes) {
  for (const Shape& shape : shapes)
    for (std::int64_t parts = 1; parts <= 9; ++parts) {
      std::int64_t end = 0;
      for (std::int64_t i = 0; i < parts; ++i) {
        const Slice share = share_of(shape, i, parts);
        if (share.count == 0) continue;
        EXPECT_EQ(share.first, end) << fmt::format("{} {} of {}", shape, i, parts);
        end = share.first + share.count;
        if (shape.rank() == 1) continue;
        const std::int64_t row = shape[shape.rank() - 1], matrix = row * shape[shape.rank() - 2];
        EXPECT_EQ(share.first % row, 0);
        EXPECT_EQ(share.count % row, 0);
        EXPECT_TRUE((share.first % matrix == 0 && share.count % matrix == 0) ||
                    share.first / matrix == (end - 1) / matrix)
            << fmt::format("{} {} of {}", shape, i, parts);
      }
      EXPECT_EQ(end, shape.numel()) << fmt::format("{} in {}", shape, parts);
    }
}

// So whoever asks for the most that a rank has asks for that of the last.
TEST(ShareOf, TheLastIsTheLargest) {
  for (const Shape& shape : shapes)
    for (std::int64_t parts = 1; parts <= 9; ++parts)
      for (std::int64_t i = 0; i < parts; ++i)
        EXPECT_LE(share_of(shape, i, parts).count, share_of(shape, parts - 1, parts).count)
            << fmt::format("{} {} of {}", shape, i, parts);
  // Of two experts over three ranks the first is cut.
  EXPECT_EQ(share_of({2, 6, 2}, 0, 3).count, 6);
  EXPECT_EQ(share_of({2, 6, 2}, 1, 3).count, 6);
  EXPECT_EQ(share_of({2, 6, 2}, 2, 3).count, 12);
}

TEST(ShareOf, IsEvenWhereThatCanBe) {
  for (const Shape& shape : {Shape{64}, Shape{64, 3}, Shape{8, 64, 3}, Shape{2, 64, 3}})
    for (const std::int64_t parts : {1, 2, 4, 8})
      for (std::int64_t i = 0; i < parts; ++i) EXPECT_EQ(share_of(shape, i, parts).count, shape.numel() / parts);
  EXPECT_EQ(share_of({10, 3}, 0, 4).count, 2 * 3);  // rows are dealt as core/slice.h deals
  EXPECT_EQ(share_of({10, 3}, 1, 4).count, 3 * 3);
}

}  // namespace
}  // namespace limbeck::core
