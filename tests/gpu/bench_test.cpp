// The benchmark of a GPU's kernels: its floors, and that each case runs.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <numeric>
#include <set>
#include <tuple>

#include "core/error.h"
#include "tests/gpu/bench/cases.h"
#include "tests/gpu/bench/measured.h"
#include "tests/gpu/gpus.h"
#include "tests/support/places.h"

namespace limbeck::bench {
namespace {

TEST(GpuBench, FormulasAreSumsOfProducts) {
  const Letters of = {{"T", 8192}, {"C", 4096}, {"K", 2}};
  EXPECT_EQ(value_of("6 T C + 2.5 K", of), 6.0 * 8192 * 4096 + 5);
  EXPECT_EQ(value_of("T + K + 1", of), 8195);
  EXPECT_EQ(value_of("", of), 0);
  EXPECT_THROW(value_of("6 T V", of), core::Error);
  EXPECT_THROW(value_of("6 T -1", of), core::Error);
}

TEST(GpuBench, EveryCaseHasAFloorAndANameOfItsOwn) {
  for (const Sizes sizes : {Sizes::Whole, Sizes::Tiny}) {
    std::set<std::tuple<std::string, std::string, Letters>> seen;
    for (const Case& one : all_cases(sizes)) {
      EXPECT_GT(value_of(one.bytes, one.of), 0) << one.name;
      EXPECT_GE(value_of(one.flops, one.of), 0) << one.name;
      EXPECT_TRUE(seen.insert({one.kind, one.name, one.of}).second) << one.name;
    }
  }
}

TEST(GpuBench, DocsHaveTheFloors) {
  std::ifstream file(testing::source_folder() / "docs" / "gpu.md");
  const std::string docs((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  for (const Case& one : all_cases(Sizes::Whole)) {
    std::string shape;
    for (const auto& [letter, value] : one.of) shape += fmt::format("{}{} {}", shape.empty() ? "" : " ", letter, value);
    EXPECT_NE(docs.find(fmt::format("\n| {} | {} | {} = ", one.name, shape, one.bytes)), std::string::npos)
        << one.name << ", " << shape;
  }
}

TEST(GpuBench, ExpertsHaveAllRowsAndNoTokenTwice) {
  for (const Case& one : grouped_cases(Sizes::Whole)) {
    const std::int64_t rows = std::accumulate(one.rows.begin(), one.rows.end(), std::int64_t{0});
    EXPECT_EQ(rows, value_of("T K", one.of));
    EXPECT_LE(one.rows.front(), value_of("T", one.of));
    if (value_of("s", one.of) == 0) {
      EXPECT_THAT(one.rows, ::testing::Each(one.rows.front()));
    } else {  // Zipf's law, of experts that are not full
      EXPECT_NEAR(static_cast<double>(one.rows[3]) / static_cast<double>(one.rows[7]), 2, 0.01);
    }
  }
}

TEST(GpuBench, EveryCaseRuns) {
  const core::MemoryPtr memory = testing::gpu_memory(0);
  const Stopwatch stopwatch(memory, Sizes::Tiny);
  for (const Case& one : all_cases(Sizes::Tiny)) {
    const Work work = one.prepare(Buffers(memory));
    EXPECT_GT(stopwatch.seconds(work), 0) << one.name;
    EXPECT_GE(stopwatch.working_bytes(work), 0) << one.name;
  }
}

// One chunk has all tokens: its logits in float32, and their gradient in bfloat16.
TEST(GpuBench, WhatTheHeadWorksInIsSeen) {
  const core::MemoryPtr memory = testing::gpu_memory(0);
  const Stopwatch stopwatch(memory, Sizes::Tiny);
  const Case head = head_cases(Sizes::Tiny).front();
  const Work work = head.prepare(Buffers(memory));
  EXPECT_GE(static_cast<double>(stopwatch.working_bytes(work)), value_of("6 T V", head.of));
  EXPECT_LT(static_cast<double>(stopwatch.working_bytes(work)), value_of("9 T V", head.of));
}

}  // namespace
}  // namespace limbeck::bench
