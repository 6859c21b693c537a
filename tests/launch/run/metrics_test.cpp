#include "launch/run/metrics.h"

#include <gmock/gmock.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <string>

#include "core/error.h"
#include "tests/support/temporary_folder.h"

namespace limbeck::launch {
namespace {

class MetricsTest : public ::testing::Test {
 protected:
  void put(const std::string& text) { std::ofstream(file_, std::ios::binary) << text; }
  std::string contents() const {
    std::ifstream in(file_, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  limbeck::testing::TemporaryFolder folder_;
  std::filesystem::path file_ = folder_.path() / "metrics.jsonl";
};

TEST_F(MetricsTest, WritesALineAStepAtOnce) {
  Metrics metrics(file_, 0);
  EXPECT_EQ(contents(), "");
  metrics.write({{"step", 1}, {"loss", 2.5}});
  EXPECT_EQ(contents(), "{\"step\":1,\"loss\":2.5}\n");
  metrics.write({{"step", 2}, {"load", {0.25, 0.75}}});
  EXPECT_EQ(contents(), "{\"step\":1,\"loss\":2.5}\n{\"step\":2,\"load\":[0.25,0.75]}\n");
}

TEST_F(MetricsTest, NumbersReadBackToTheSameBits) {
  const std::vector<double> values{1.0 / 3, std::nextafter(1.0, 2), 5e-324, std::numeric_limits<double>::max(),
                                   0.1 + 0.2};
  Metrics(file_, 0).write({{"step", 1}, {"values", values}});
  EXPECT_EQ(nlohmann::json::parse(contents())["values"].get<std::vector<double>>(), values);
}

TEST_F(MetricsTest, ResumeCutsBackToTheStep) {
  put("{\"step\":0}\n{\"step\":1}\n{\"step\":2}\n{\"step\":2,\"eval_kl\":1}\n{\"step\":3}\n{\"step\":4}\n");
  Metrics(file_, 2).write({{"step", 3}, {"again", true}});
  EXPECT_EQ(contents(),
            "{\"step\":0}\n{\"step\":1}\n{\"step\":2}\n{\"step\":2,\"eval_kl\":1}\n{\"step\":3,\"again\":true}\n");
}

TEST_F(MetricsTest, SecondsGoOnFromTheLinesThatStay) {
  put("{\"step\":1,\"seconds\":0.5}\n{\"step\":2,\"seconds\":1.25}\n{\"step\":3,\"seconds\":2}\n");
  EXPECT_EQ(Metrics(file_, 2).seconds_before(), 1.25);
  EXPECT_EQ(Metrics(file_, 0).seconds_before(), 0);
  // An older run's are what its tokens took: 300 at 100 a second, 100 at 50; then some that say theirs.
  put("{\"step\":1,\"tokens\":300,\"tokens_per_s\":100}\n{\"step\":2,\"tokens\":400,\"tokens_per_s\":50}\n");
  EXPECT_EQ(Metrics(file_, 2).seconds_before(), 5);
  TrainingSeconds seconds;
  for (const char* odd : {R"({"step":1,"tokens":"many","tokens_per_s":-1,"seconds":null})", R"({"step":2})",
                          R"({"step":3,"tokens":5,"tokens_per_s":0,"seconds":-7})"})
    EXPECT_EQ(seconds.add(nlohmann::json::parse(odd)), 0);
}

TEST_F(MetricsTest, NothingToCutLeavesTheFile) {
  put("{\"step\":1}\n{\"step\":2}\n");
  Metrics(file_, 2);
  EXPECT_EQ(contents(), "{\"step\":1}\n{\"step\":2}\n");
  Metrics(file_, 0);
  EXPECT_EQ(contents(), "");
}

TEST_F(MetricsTest, HalfWrittenLastLineGoes) {
  put("{\"step\":1}\n{\"step\":2}");  // whole as JSON, but its newline never came
  Metrics(file_, 5);
  EXPECT_EQ(contents(), "{\"step\":1}\n");
  put("{\"step\":1}\n{\"st");
  Metrics(file_, 5);
  EXPECT_EQ(contents(), "{\"step\":1}\n");
}

TEST_F(MetricsTest, OtherBadLinesAreNamed) {
  for (const char* bad : {"{\"step\":1}\nnonsense\n{\"step\":2}\n", "{\"step\":1}\n[1]\n",
                          "{\"step\":1}\n{\"loss\":1}\n", "{\"step\":1}\n{\"step\":1.5}\n", "{\"step\":1}\n\n"}) {
    put(bad);
    try {
      Metrics(file_, 5);
      ADD_FAILURE() << bad;
    } catch (const core::Error& error) {
      EXPECT_THAT(error.what(), ::testing::HasSubstr("metrics.jsonl:2: expected a JSON object"));
    }
    EXPECT_EQ(contents(), bad);
  }
}

TEST(Metrics, UnwritablePlaceIsNamed) { EXPECT_THROW(Metrics("/no/such/folder/metrics.jsonl", 0), core::Error); }

}  // namespace
}  // namespace limbeck::launch
