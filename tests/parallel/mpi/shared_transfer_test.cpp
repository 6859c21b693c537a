#include "parallel/mpi/shared_transfer.h"

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <numeric>
#include <vector>

namespace limbeck::parallel {
namespace {

constexpr std::int64_t piece = SharedSegment::piece_bytes / 4;  // of float32

/// As if so many processes: each maps the others' parts anew.
std::vector<std::unique_ptr<SharedSegment>> segments_of(int size) {
  std::vector<std::unique_ptr<SharedSegment>> segments;
  std::vector<SharedSegment::Offer> offers;
  for (int r = 0; r < size; ++r) {
    segments.push_back(std::make_unique<SharedSegment>(r, size));
    offers.push_back(segments.back()->offer());
  }
  for (const auto& segment : segments) EXPECT_TRUE(segment->join(offers));
  return segments;
}

std::vector<float> numbers(std::int64_t count, float first) {
  std::vector<float> values(static_cast<std::size_t>(count));
  std::iota(values.begin(), values.end(), first);
  return values;
}

std::byte* bytes(std::vector<float>& values) { return reinterpret_cast<std::byte*>(values.data()); }

SharedReduction reduction(SharedSegment& segment, std::vector<float>& values) {
  return {segment, core::DType::F32, core::Reduce::Sum, bytes(values), static_cast<std::int64_t>(values.size())};
}

/// In turns; the ranks come to the end within so many calls, or never do.
void run(const std::vector<SharedTransfer*>& ranks) {
  std::vector<bool> is_done(ranks.size(), false);
  for (int turn = 0; turn < 200; ++turn)
    for (std::size_t r = 0; r < ranks.size(); ++r) is_done[r] = ranks[r]->progress();
  for (std::size_t r = 0; r < ranks.size(); ++r) ASSERT_TRUE(is_done[r]) << r;
}

TEST(SharedReduction, SumsOverPieces) {
  const auto segments = segments_of(2);
  for (const std::int64_t count : {piece * 5 + 3, std::int64_t{1}, piece}) {
    std::vector<float> a = numbers(count, 1), b = numbers(count, 100);
    SharedReduction one = reduction(*segments[0], a), other = reduction(*segments[1], b);
    run({&one, &other});
    std::int64_t wrong = 0;
    for (std::int64_t i = 0; i < count; ++i) {
      const float sum = (1.0F + static_cast<float>(i)) + (100.0F + static_cast<float>(i));
      wrong += a[static_cast<std::size_t>(i)] != sum || b[static_cast<std::size_t>(i)] != sum;
    }
    EXPECT_EQ(wrong, 0);
  }
}

/// Rank r has for rank s `length(r, s)` elements, the numbers from 4'000'000 r + 1'000'000 s on (float32 holds them).
void exchange_among_three(const std::function<std::int64_t(int, int)>& length) {
  constexpr int size = 3;
  const auto segments = segments_of(size);
  std::int64_t longest = 0;
  std::vector<std::vector<float>> from(size), to(size);
  std::vector<ExchangedParts> parts(size);
  for (int r = 0; r < size; ++r) {
    std::int64_t received = 0;
    for (int s = 0; s < size; ++s) {
      const std::vector<float> part = numbers(length(r, s), static_cast<float>(4'000'000 * r + 1'000'000 * s));
      const auto at = static_cast<std::int64_t>(from[r].size());
      from[r].insert(from[r].end(), part.begin(), part.end());
      parts[r].sent.push_back({4 * at, 4 * length(r, s)});
      parts[r].received.push_back({4 * received, 4 * length(s, r)});
      received += length(s, r);
      longest = std::max(longest, 4 * length(r, s));
    }
    to[r].assign(static_cast<std::size_t>(received), -1.0F);
    parts[r].from = bytes(from[r]);
    parts[r].to = bytes(to[r]);
  }
  std::vector<std::unique_ptr<SharedExchange>> ranks;
  std::vector<SharedTransfer*> all;
  for (int r = 0; r < size; ++r) {
    ranks.push_back(std::make_unique<SharedExchange>(*segments[r], parts[r], longest));
    all.push_back(ranks.back().get());
  }
  run(all);
  for (int r = 0; r < size; ++r) {
    std::vector<float> expected;
    for (int s = 0; s < size; ++s) {
      const std::vector<float> part = numbers(length(s, r), static_cast<float>(4'000'000 * s + 1'000'000 * r));
      expected.insert(expected.end(), part.begin(), part.end());
    }
    EXPECT_TRUE(to[r] == expected) << "rank " << r;
  }
}

TEST(SharedExchange, BringsUnevenPartsToWhomTheyAreFor) {
  exchange_among_three([](int r, int s) { return piece / 2 * r + 7 * s; });  // of rank 0 to itself nothing
  exchange_among_three([](int r, int s) { return r == 1 && s == 2 ? 3 * piece + 1 : 0; });
  exchange_among_three([](int, int s) { return s == 0 ? piece + 5 : 0; });
  exchange_among_three([](int, int) { return 0; });
}

/// What all read is written once, and transfers of all kinds follow each other in one segment.
TEST(SharedExchange, AllReadOnePart) {
  constexpr int size = 3;
  const auto segments = segments_of(size);
  for (const std::int64_t count : {std::int64_t{1}, piece, 2 * piece + 9}) {
    std::vector<std::vector<float>> mine, all(size), sums;
    std::vector<std::unique_ptr<SharedTransfer>> gathers, reductions;
    std::vector<SharedTransfer*> first, second;
    std::vector<float> expected;
    for (int r = 0; r < size; ++r) {
      mine.push_back(numbers(count, static_cast<float>(1000 * r)));
      sums.push_back(numbers(count, static_cast<float>(r)));
      expected.insert(expected.end(), mine[r].begin(), mine[r].end());
    }
    for (int r = 0; r < size; ++r) {
      all[r].assign(static_cast<std::size_t>(size * count), -1.0F);
      ExchangedParts parts{.from = bytes(mine[r]), .to = bytes(all[r]), .is_same_for_all = true};
      for (int s = 0; s < size; ++s) {
        parts.sent.push_back({0, 4 * count});
        parts.received.push_back({4 * count * s, 4 * count});
      }
      gathers.push_back(std::make_unique<SharedExchange>(*segments[r], parts, 4 * count));
      first.push_back(gathers.back().get());
    }
    run(first);
    for (int r = 0; r < size; ++r) {
      reductions.push_back(
          std::make_unique<SharedReduction>(*segments[r], core::DType::F32, core::Reduce::Max, bytes(sums[r]), count));
      second.push_back(reductions.back().get());
    }
    run(second);
    for (int r = 0; r < size; ++r) {
      EXPECT_TRUE(all[r] == expected) << count;
      EXPECT_TRUE(sums[r] == numbers(count, size - 1)) << count;
    }
  }
}

/// 1e8 + 1 - 1e8 in float32 is 0 from left to right, whoever adds it up.
TEST(SharedReduceScatter, AddsInRankOrder) {
  constexpr int size = 3;
  const auto segments = segments_of(size);
  const std::int64_t count = piece + 11;
  const std::vector<float> value = {1e8F, 1.0F, -1e8F};
  std::vector<std::vector<float>> from, to;
  std::vector<std::unique_ptr<SharedTransfer>> ranks;
  std::vector<SharedTransfer*> all;
  for (int r = 0; r < size; ++r) {
    from.emplace_back(static_cast<std::size_t>(size * count), value[static_cast<std::size_t>(r)]);
    to.emplace_back(static_cast<std::size_t>(count), -1.0F);
    for (int s = 0; r == 1 && s < size; ++s)  // so that each part is known by its last number
      from[1][static_cast<std::size_t>(count * (s + 1) - 1)] = static_cast<float>(100'000'000 * (s + 1));
  }
  for (int r = 0; r < size; ++r) {
    ExchangedParts parts{.from = bytes(from[r]), .to = bytes(to[r])};
    for (int s = 0; s < size; ++s) parts.sent.push_back({4 * count * s, 4 * count});
    parts.received = parts.sent;
    ranks.push_back(std::make_unique<SharedReduceScatter>(*segments[r], parts, core::DType::F32));
    all.push_back(ranks.back().get());
  }
  run(all);
  for (int r = 0; r < size; ++r) {
    std::vector<float> expected(static_cast<std::size_t>(count), 0.0F);
    expected.back() = static_cast<float>(100'000'000 * (r + 1));
    EXPECT_TRUE(to[r] == expected) << r;
  }
}

/// However long a transfer is, operations of other groups get their turn between its pieces.
TEST(SharedTransfer, MovesOnByOnePieceAtATime) {
  const auto segments = segments_of(2);
  std::vector<float> a = numbers(piece * 8, 1), b = numbers(piece * 8, 2);
  SharedReduction one = reduction(*segments[0], a), other = reduction(*segments[1], b);
  for (std::int64_t calls = 1; !one.progress(); ++calls) {
    ASSERT_LE(segments[0]->progress(0).in, calls);
    ASSERT_LE(segments[0]->progress(0).reduced, calls);
    ASSERT_LE(segments[0]->progress(0).out, calls);
    other.progress();
  }
}

TEST(SharedTransfer, NamesWhoIsBehind) {
  const auto segments = segments_of(2);
  std::vector<float> a = numbers(piece * 4, 1), b = numbers(piece * 4, 2);
  SharedReduction one = reduction(*segments[0], a), other = reduction(*segments[1], b);
  for (int i = 0; i < 10; ++i) one.progress();
  EXPECT_EQ(one.behind(), std::vector<int>{1});
  EXPECT_TRUE(other.behind().empty());
}

}  // namespace
}  // namespace limbeck::parallel
