#include "launch/run/run_record.h"

#include <fmt/format.h>
#include <gmock/gmock.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <string>

#include "core/error.h"
#include "tests/support/temporary_folder.h"

namespace limbeck::launch {
namespace {

using ::testing::ElementsAre;

class RunRecordTest : public ::testing::Test {
 protected:
  void put(const std::string& text) { std::ofstream(file_, std::ios::binary) << text; }
  void append(const std::string& text) { std::ofstream(file_, std::ios::binary | std::ios::app) << text; }

  limbeck::testing::TemporaryFolder folder_;
  std::filesystem::path file_ = folder_.path() / "metrics.jsonl";
};

TEST_F(RunRecordTest, GoesOnWhereItWas) {
  RecordReader reader(file_);
  EXPECT_TRUE(reader.read().is_empty());  // no file yet
  put("{\"step\":1,\"loss\":4}\n{\"step\":2,\"lo");
  EXPECT_THAT(reader.read().series.at("loss").values, ElementsAre(4));
  EXPECT_FALSE(reader.read().is_whole);
  append("ss\":3}\n{\"step\":3,\"loss\":2}\n");
  EXPECT_THAT(reader.read().series.at("loss").values, ElementsAre(4, 3, 2));
  EXPECT_THAT(reader.read().series.at("loss").steps, ElementsAre(1, 2, 3));
  EXPECT_TRUE(reader.read().is_whole);
  EXPECT_EQ(reader.read().last_step, 3);
}

/// As a run does that is resumed from a checkpoint of step 1; and another run, whose file is longer.
TEST_F(RunRecordTest, BeginsAnewWhereTheFileIsAnother) {
  put("{\"step\":1,\"loss\":4}\n{\"step\":2,\"loss\":3}\n");
  RecordReader reader(file_);
  EXPECT_EQ(reader.read().last_step, 2);
  put("{\"step\":1,\"loss\":4}\n");
  EXPECT_THAT(reader.read().series.at("loss").values, ElementsAre(4));
  put("{\"step\":7,\"loss\":9}\n{\"step\":8,\"loss\":8}\n{\"step\":9,\"loss\":7}\n");
  EXPECT_THAT(reader.read().series.at("loss").steps, ElementsAre(7, 8, 9));
  EXPECT_EQ(reader.read().first_step, 7);
}

/// A line is named by its number in the file, and what follows it is read once it is right.
TEST_F(RunRecordTest, NamesALineThatItCameToLater) {
  put("{\"step\":1,\"loss\":4}\n");
  RecordReader reader(file_);
  reader.read();
  append("{\"step\":0}\n");
  for (int again = 0; again < 2; ++again) try {
      reader.read();
      ADD_FAILURE();
    } catch (const core::Error& error) {
      EXPECT_THAT(error.what(), ::testing::HasSubstr("metrics.jsonl:2: step is 0, expected 1 to"));
    }
  put("{\"step\":1,\"loss\":5}\n{\"step\":2,\"loss\":6}\n");
  EXPECT_THAT(reader.read().series.at("loss").values, ElementsAre(5, 6));
}

/// Of n values all points stand for as many, but for the last of them and the last value.
TEST_F(RunRecordTest, ASeriesOfFewPointsHasMeansAndExtremes) {
  constexpr std::size_t most = 16;
  Series few, all;
  for (int n = 0; n < 1000; ++n) {
    const double value = n % 7 == 3 ? 1000 + n : std::sin(n);
    few.add(n, value, most);
    all.add(n, value);
    ASSERT_LE(few.values.size(), most + 1);
    ASSERT_EQ(few.values.back(), value);
    ASSERT_EQ(few.steps.back(), n);
    ASSERT_EQ(few.least(), all.least());
    ASSERT_EQ(few.greatest(), all.greatest());
    const auto width = static_cast<std::size_t>(few.values_a_point);
    for (std::size_t point = 0; width > 1 && point + 2 < few.values.size(); ++point) {
      double steps = 0, values = 0;
      for (std::size_t i = point * width; i < (point + 1) * width; ++i) {
        steps += all.steps[i] / static_cast<double>(width);
        values += all.values[i] / static_cast<double>(width);
      }
      ASSERT_NEAR(few.steps[point], steps, 1e-9);
      ASSERT_NEAR(few.values[point], values, 1e-9);
    }
  }
  EXPECT_EQ(few.values_a_point, 64);
  EXPECT_TRUE(all.low.empty());
}

/// Of a run that got a second rank on its way, kept in few points.
TEST_F(RunRecordTest, SumsOfExchangesAndTimesAreExact) {
  std::string lines;
  for (int step = 1; step <= 300; ++step) {
    const std::string exchanged = R"(,"exposed_s":{"dp":0.25},"sent_bytes":{"dp":{"inside":8,"across":2}})";
    lines += fmt::format("{{\"step\":{},\"loss\":{},\"time\":{},\"seconds\":{}{}}}\n", step, 400 - step,
                         1000 + 3 * step + (step > 250 ? 100 : 0), 2 * step, step > 101 ? exchanged : "");
  }
  put(lines);
  const RunRecord record = RecordReader(file_, 32).read();
  EXPECT_EQ(record.traffic_steps, 199);
  EXPECT_EQ(record.traffic_seconds, 398);
  EXPECT_EQ(record.traffic.at("dp").waited_s, 199 * 0.25);
  EXPECT_EQ(record.traffic.at("dp").inside, 199 * 8);
  EXPECT_EQ(record.traffic.at("dp").across, 199 * 2);
  EXPECT_LE(record.traffic.at("dp").exposed_s.values.size(), 33U);
  EXPECT_FALSE(record.series.contains("time"));
  ASSERT_LE(record.times.size(), 64U);
  EXPECT_EQ(record.times.front().begin, 1003);
  EXPECT_EQ(record.times.back().end, 2000);
  double seconds = 0;
  bool is_pause_known = false;
  for (std::size_t i = 0; i < record.times.size(); ++i) {
    const double gap = i == 0 ? 0 : record.times[i].begin - record.times[i - 1].end;
    is_pause_known = is_pause_known || (gap == 103 && record.times[i].begin == 1853);
    seconds += gap + record.times[i].seconds;
  }
  EXPECT_TRUE(is_pause_known);
  EXPECT_EQ(seconds, 2000 - 1003);
  EXPECT_EQ(record.series.at("loss").first_value, 399);
  EXPECT_EQ(record.last("loss"), 100);
}

}  // namespace
}  // namespace limbeck::launch
