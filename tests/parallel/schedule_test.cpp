// Schedules of pipelines: written by hand, by the closed forms of the papers, and broken ones.
#include "parallel/pipeline/schedule.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "core/error.h"
#include "tests/support/written_schedule.h"

namespace limbeck::parallel {
namespace {

using core::Error;
using core::Slice;
using core::UsageError;
using ::testing::ElementsAre;
using testing::written;
using ::testing::HasSubstr;

constexpr auto F = ActionKind::Forward, B = ActionKind::Backward, I = ActionKind::InputGradient,
               W = ActionKind::WeightGradient;

/// What is said against a schedule.
std::string fault_of(const PipelineSchedule& schedule) {
  try {
    check_schedule(schedule);
  } catch (const Error& error) {
    return error.what();
  }
  return "none";
}

std::vector<Slice> slices(const std::vector<std::pair<std::int64_t, std::int64_t>>& parts) {
  std::vector<Slice> made;
  for (const auto& [first, count] : parts) made.push_back({first, count});
  return made;
}

MATCHER_P(AreSlices, expected, "") {
  return std::ranges::equal(arg, expected,
                            [](const Slice& a, const Slice& b) { return a.first == b.first && a.count == b.count; });
}

TEST(Schedule, OneForwardOneBackward) {
  EXPECT_THAT(written(make_schedule(ScheduleKind::OneFOneB, 3, 1, 4)),
              ElementsAre("F0 F1 F2 B0 F3 B1 B2 B3",    //
                          "F0 F1 B0 F2 B1 F3 B2 B3",    //
                          "F0 B0 F1 B1 F2 B2 F3 B3"));  //
}

// Figure 4 of arXiv 2104.04473, for two devices: warm-ups of 2 (P - p - 1) + (v - 1) P.
TEST(Schedule, Interleaved) {
  EXPECT_THAT(written(make_schedule(ScheduleKind::Interleaved, 2, 2, 4)),
              ElementsAre("F0a F1a F0b F1b F2a B0b F3a B1b F2b B0a F3b B1a B2b B3b B2a B3a",
                          "F0a F1a F0b B0b F1b B1b F2a B0a F3a B1a F2b B2b F3b B3b B2a B3a"));
  EXPECT_EQ(written(make_schedule(ScheduleKind::Interleaved, 3, 1, 7)),
            written(make_schedule(ScheduleKind::OneFOneB, 3, 1, 7)));
}

// The round of the third micro-batch is not full: the others' order is as it was.
TEST(Schedule, InterleavedOfAnOddNumber) {
  EXPECT_THAT(written(make_schedule(ScheduleKind::Interleaved, 2, 2, 3)),
              ElementsAre("F0a F1a F0b F1b F2a B0b B1b F2b B0a B1a B2b B2a",
                          "F0a F1a F0b B0b F1b B1b F2a B0a B1a F2b B2b B2a"));
}

// Figure 3 (top) of arXiv 2401.10241, for three devices.
TEST(Schedule, ZeroBubble) {
  const PipelineSchedule schedule = make_schedule(ScheduleKind::ZeroBubble, 3, 1, 4);
  EXPECT_THAT(written(schedule), ElementsAre("F0 F1 F2 B0 W0 F3 B1 W1 B2 W2 B3 W3",    //
                                             "F0 F1 B0 F2 B1 W0 F3 B2 W1 B3 W2 W3",    //
                                             "F0 B0 F1 B1 F2 B2 W0 F3 B3 W1 W2 W3"));  //
  EXPECT_EQ(schedule.stages[2][1], (PipelineAction{I, 0, 0}));
  EXPECT_EQ(schedule.stages[2][6], (PipelineAction{W, 0, 0}));
}

// A rank's micro-batches in flight are those of the papers, and with weights apart no rank has more than the first one
// of the same schedule without.
TEST(Schedule, AllAreWholeAndHoldWhatTheyPromise) {
  for (int P = 1; P <= 6; ++P)
    for (int v = 1; v <= 3; ++v)
      for (int M = 1; M <= 13; ++M)
        for (const ScheduleKind kind : {ScheduleKind::OneFOneB, ScheduleKind::Interleaved, ScheduleKind::ZeroBubble}) {
          if (kind == ScheduleKind::OneFOneB && v > 1) continue;
          SCOPED_TRACE(fmt::format("kind {}, {} stages, {} chunks, {} micro-batches", static_cast<int>(kind), P, v, M));
          const PipelineSchedule schedule = make_schedule(kind, P, v, M);
          ASSERT_EQ(schedule.num_stages(), P);
          EXPECT_EQ(fault_of(schedule), "none");
          const std::vector<int> peaks = peak_activations(schedule);
          const auto in_flight = [&](int p) { return v == 1 ? P - p : 2 * (P - p - 1) + (v - 1) * P + 1; };
          for (int p = 0; p < P; ++p) {
            const int promised = std::min(v * M, kind == ScheduleKind::ZeroBubble ? in_flight(0) : in_flight(p));
            EXPECT_LE(peaks[static_cast<std::size_t>(p)], promised);
            const bool is_reached = v == 1 || (kind == ScheduleKind::Interleaved && M % P == 0);
            EXPECT_GE(peaks[static_cast<std::size_t>(p)], is_reached ? promised : 1);
          }
        }
}

TEST(Schedule, NumbersThatCannotBe) {
  EXPECT_THROW(make_schedule(ScheduleKind::OneFOneB, 0, 1, 1), UsageError);
  EXPECT_THROW(make_schedule(ScheduleKind::Interleaved, 1, 0, 1), UsageError);
  EXPECT_THROW(make_schedule(ScheduleKind::ZeroBubble, 1, 1, 0), UsageError);
  EXPECT_THROW(make_schedule(ScheduleKind::OneFOneB, 2, 2, 2), UsageError);
}

// The bubbles of equal stages: (P - 1) / (M + P - 1), of v chunks (P - 1) / (v M + P - 1) (arXiv 2104.04473, 2.2);
// ZB-H1 has (P - 1) (f + b - w) of idle time where 1F1B has (P - 1) (f + b + w) (arXiv 2401.10241, table 1), but never
// less than (P - 1) f, in which the last rank waits for its first activations, nor than (P - 1) b: with the P
// micro-batches that it may hold the first rank has nothing else to do while the first gradient comes back.
TEST(ScheduleTimes, BubblesAreThoseOfTheClosedForms) {
  for (int P = 1; P <= 6; ++P)
    for (int M = 1; M <= 13; ++M) {
      SCOPED_TRACE(fmt::format("{} stages, {} micro-batches", P, M));
      const auto bubbles_are = [&](ScheduleKind kind, int v, double f, double b, double w, double expected) {
        const PipelineSchedule schedule = make_schedule(kind, P, v, M);
        for (const double bubble : simulate(schedule, even_costs(schedule, f, b, w)).bubble)
          EXPECT_NEAR(bubble, expected, 1e-12);
      };
      bubbles_are(ScheduleKind::OneFOneB, 1, 1, 0.5, 0.5, (P - 1.0) / (M + P - 1));
      bubbles_are(ScheduleKind::OneFOneB, 1, 1, 1, 1, (P - 1.0) / (M + P - 1));
      for (int v = 2; v <= 3 && M % P == 0; ++v)
        bubbles_are(ScheduleKind::Interleaved, v, 1, 1, 1, (P - 1.0) / (v * M + P - 1));
      if (M < P) continue;
      for (const auto& [f, b, w] : {std::array{1.0, 1.0, 1.0}, {4, 4, 3}, {3, 4, 2}, {1, 4, 3}, {2, 3, 5}, {3, 1, 2}}) {
        const double idle = (P - 1) * std::max({f + b - w, f, b});
        bubbles_are(ScheduleKind::ZeroBubble, 1, f, b, w, idle / (M * (f + b + w) + idle));
      }
    }
}

// Rank 0: F0 0 to 1, F1 1 to 2, B0 waits for rank 1. There F0 arrives at 1.5 and takes 2; B0 3.5 to 6.5; F1 6.5 to 8.5;
// B1 8.5 to 11.5. So rank 0 has B0 7 to 9 and B1 12 to 14.
TEST(ScheduleTimes, UnevenStagesThatCommunicate) {
  const PipelineSchedule schedule = make_schedule(ScheduleKind::OneFOneB, 2, 1, 2);
  const PipelineTimes times = simulate(
      schedule, {.forward = {1, 2}, .input_gradient = {0.5, 1}, .weight_gradient = {1.5, 2}, .communication = 0.5});
  const auto spans = [&](std::size_t rank) {
    std::vector<std::pair<double, double>> found;
    for (const TimedAction& timed : times.stages[rank]) found.emplace_back(timed.start, timed.end);
    return found;
  };
  using Span = std::pair<double, double>;
  EXPECT_THAT(spans(0), ElementsAre(Span{0, 1}, Span{1, 2}, Span{7, 9}, Span{12, 14}));
  EXPECT_THAT(spans(1), ElementsAre(Span{1.5, 3.5}, Span{3.5, 6.5}, Span{6.5, 8.5}, Span{8.5, 11.5}));
  EXPECT_EQ(times.makespan, 14);
  EXPECT_THAT(times.bubble, ElementsAre(8.0 / 14, 4.0 / 14));
}

TEST(ScheduleTimes, CostsThatCannotBe) {
  const PipelineSchedule schedule = make_schedule(ScheduleKind::OneFOneB, 2, 1, 2);
  PipelineCosts costs = even_costs(schedule, 1, 1, 1);
  costs.weight_gradient.pop_back();
  EXPECT_THROW(simulate(schedule, costs), Error);
  EXPECT_THROW(simulate(schedule, even_costs(schedule, -1, 1, 1)), Error);
  costs = even_costs(schedule, 1, 1, 1);
  costs.communication = -1;
  EXPECT_THROW(simulate(schedule, costs), Error);
}

// Each action of each kind of schedule, dropped, doubled, or of a number that is not there.
TEST(ScheduleCheck, EveryActionIsThereOnce) {
  for (const ScheduleKind kind : {ScheduleKind::Interleaved, ScheduleKind::ZeroBubble}) {
    const PipelineSchedule sound = make_schedule(kind, 2, 2, 4);
    for (std::size_t rank = 0; rank < 2; ++rank)
      for (std::ptrdiff_t at = 0; at < std::ssize(sound.stages[rank]); ++at) {
        PipelineSchedule dropped = sound, doubled = sound, beyond = sound;
        dropped.stages[rank].erase(dropped.stages[rank].begin() + at);
        EXPECT_THAT(fault_of(dropped), HasSubstr(fmt::format("rank {} has of micro-batch", rank)));
        doubled.stages[rank].insert(doubled.stages[rank].end(), sound.stages[rank][static_cast<std::size_t>(at)]);
        EXPECT_THAT(fault_of(doubled), HasSubstr(fmt::format("rank {} has of micro-batch", rank)));
        beyond.stages[rank][static_cast<std::size_t>(at)].micro_batch = 4;
        EXPECT_THAT(fault_of(beyond), HasSubstr("works on micro-batch 4"));
      }
  }
  PipelineSchedule both = make_schedule(ScheduleKind::OneFOneB, 1, 1, 1);
  both.stages[0].push_back({W, 0, 0});
  EXPECT_THAT(fault_of(both), HasSubstr("1 forwards, 1 backwards and 0 and 1 of inputs and weights apart"));
}

// Rank 0 wants a gradient before it sends what that is of; rank 1 waits for it.
TEST(ScheduleCheck, RanksThatWaitForEachOtherAreNamed) {
  const PipelineSchedule deadlock{
      .num_chunks = 1,
      .num_micro_batches = 2,
      .stages = {{{F, 0, 0}, {B, 0, 0}, {F, 1, 0}, {B, 1, 0}}, {{F, 0, 0}, {F, 1, 0}, {B, 0, 0}, {B, 1, 0}}}};
  EXPECT_EQ(fault_of(deadlock),
            "pipeline: ranks wait for each other: rank 0 at B0 for B0 of rank 1, rank 1 at F1 for F1 of rank 0");
  EXPECT_THROW(simulate(deadlock, even_costs(deadlock, 1, 1, 1)), Error);
  const PipelineSchedule alone{.num_chunks = 1, .num_micro_batches = 1, .stages = {{{F, 0, 0}, {W, 0, 0}, {I, 0, 0}}}};
  EXPECT_EQ(fault_of(alone), "pipeline: ranks wait for each other: rank 0 at W0 for B0 of rank 0");
}

TEST(ScheduleCheck, ChannelsAreFirstInFirstOut) {
  PipelineSchedule schedule = make_schedule(ScheduleKind::OneFOneB, 2, 1, 4);  // F0 F1 B0 F2 ...
  std::swap(schedule.stages[0][0], schedule.stages[0][1]);
  EXPECT_EQ(fault_of(schedule),
            "pipeline: rank 0 sends rank 1 the activations of micro-batch 1, chunk 0 where it expects those of "
            "micro-batch 0, chunk 0");
  PipelineSchedule chunks = make_schedule(ScheduleKind::Interleaved, 2, 2, 4);
  std::swap(chunks.stages[0][12], chunks.stages[0][13]);  // B2b and B3b
  EXPECT_EQ(fault_of(chunks),
            "pipeline: rank 0 sends rank 1 the gradient of micro-batch 3, chunk 0 where it expects those of "
            "micro-batch 2, chunk 0");
  PipelineSchedule apart = make_schedule(ScheduleKind::ZeroBubble, 2, 1, 4);  // weights send nothing
  ASSERT_EQ(apart.stages[1].back().kind, W);
  std::swap(apart.stages[1].back(), apart.stages[1][apart.stages[1].size() - 2]);
  EXPECT_EQ(fault_of(apart), fault_of(make_schedule(ScheduleKind::ZeroBubble, 2, 1, 4)));
}

TEST(SchedulePicture, ALineARank) {
  const PipelineSchedule schedule = make_schedule(ScheduleKind::OneFOneB, 2, 1, 2);
  EXPECT_EQ(picture(schedule, even_costs(schedule, 1, 1, 1)),
            "rank 0 F0F1    B0--  B1--\n"
            "rank 1   F0B0--F1B1--\n");
  const PipelineSchedule apart = make_schedule(ScheduleKind::ZeroBubble, 2, 1, 2);
  EXPECT_EQ(picture(apart, even_costs(apart, 1, 1, 1)),
            "rank 0 F0F1  B0W0B1W1\n"
            "rank 1   F0B0F1B1W0W1\n");
}

TEST(SchedulePicture, WhatIsTooWideLosesItsMiddle) {
  const PipelineSchedule schedule = make_schedule(ScheduleKind::Interleaved, 12, 2, 96);
  for (const double f : {1.0, 0.0, 1e-9}) {
    const std::string text = picture(schedule, even_costs(schedule, f, 1, 1), 80);
    EXPECT_EQ(std::ranges::count(text, '\n'), 12);
    std::size_t longest = 0;
    for (std::size_t at = 0; at < text.size(); at = text.find('\n', at) + 1)
      longest = std::max(longest, text.find('\n', at) - at);
    EXPECT_EQ(longest, 80);
    EXPECT_THAT(text, HasSubstr("\nrank 11 "));
    EXPECT_THAT(text, HasSubstr(" ... "));
  }
  EXPECT_EQ(picture(schedule, even_costs(schedule, 0, 0, 0)).substr(0, 8), "rank  0 ");
}

// Every cut is tried.
TEST(SplitByCost, IsTheLeastOfAllCuts) {
  std::mt19937 random(7);
  for (int count = 0; count <= 7; ++count)
    for (int parts = 1; parts <= 5; ++parts) {
      SCOPED_TRACE(fmt::format("{} layers, {} parts", count, parts));
      std::vector<double> costs(static_cast<std::size_t>(count));
      for (double& cost : costs) cost = static_cast<double>(random() % 9);  // whole numbers: sums are exact
      const double first_extra = static_cast<double>(random() % 9), last_extra = static_cast<double>(random() % 9);
      const auto measure = [&](const std::vector<int>& ends) {  // the largest sum, then the squares
        std::pair<double, double> found{0, 0};
        for (int part = 0, first = 0; part < parts; first = ends[static_cast<std::size_t>(part++)]) {
          double sum = (part == 0 ? first_extra : 0) + (part == parts - 1 ? last_extra : 0);
          for (int i = first; i < ends[static_cast<std::size_t>(part)]; ++i) sum += costs[static_cast<std::size_t>(i)];
          found = {std::max(found.first, sum), found.second + sum * sum};
        }
        return found;
      };
      std::pair<double, double> least{std::numeric_limits<double>::infinity(), 0};
      std::vector<int> ends(static_cast<std::size_t>(parts), count);
      const auto try_all = [&](const auto& self, int part, int first) -> void {
        if (part == parts - 1) {
          if (count >= parts && first == count) return;
          least = std::min(least, measure(ends));
          return;
        }
        for (int end = first + (count >= parts ? 1 : 0); end <= count; ++end) {
          ends[static_cast<std::size_t>(part)] = end;
          self(self, part + 1, end);
        }
      };
      try_all(try_all, 0, 0);
      const std::vector<Slice> split = split_by_cost(costs, first_extra, last_extra, parts);
      ASSERT_EQ(split.size(), static_cast<std::size_t>(parts));
      std::vector<int> found;
      std::int64_t next = 0;
      for (const Slice& part : split) {
        EXPECT_EQ(part.first, next);
        EXPECT_GE(part.count, count >= parts ? 1 : 0);
        found.push_back(static_cast<int>(next += part.count));
      }
      ASSERT_EQ(next, count);
      EXPECT_EQ(measure(found), least);
    }
}

// By hand: a head of 3 layers' cost leaves the last part one; of equal cuts later parts have more layers.
TEST(SplitByCost, TheEndsCount) {
  EXPECT_THAT(split_by_cost(std::vector<double>(9, 1), 0, 3, 3), AreSlices(slices({{0, 4}, {4, 4}, {8, 1}})));
  EXPECT_THAT(split_by_cost(std::vector<double>(9, 1), 3, 0, 3), AreSlices(slices({{0, 1}, {1, 4}, {5, 4}})));
  EXPECT_THAT(split_by_cost(std::vector<double>(10, 1), 0, 0, 4), AreSlices(slices({{0, 2}, {2, 2}, {4, 3}, {7, 3}})));
  EXPECT_THAT(split_by_cost({1, 1, 1, 5}, 0, 0, 2), AreSlices(slices({{0, 3}, {3, 1}})));
  EXPECT_THROW(split_by_cost({1}, 0, 0, 0), Error);
  EXPECT_THROW(split_by_cost({-1}, 0, 0, 1), Error);
  EXPECT_THROW(split_by_cost({1}, 0, std::numeric_limits<double>::infinity(), 1), Error);
}

}  // namespace
}  // namespace limbeck::parallel
