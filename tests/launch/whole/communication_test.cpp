// What a run of several ranks says of its exchanges: in metrics.jsonl, in the table at its end, in the report.

#include <gmock/gmock.h>

#include <chrono>

#include "tests/support/run_limbeck.h"
#include "tests/support/written_out_run.h"

namespace limbeck::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

TEST(CommunicationRuns, SayWhatEachAxisSentAndWaitedFor) {
  const RunFolder folder("communication");
  struct Case {
    std::string layout;
    std::vector<std::string> axes;
  };
  for (const auto& [layout, axes] : std::vector<Case>{
           {"dp2", {"dp", "edp"}}, {"tp2", {"tp", "edp"}}, {"ep2", {"dp", "ep"}}, {"etp2", {"dp", "etp"}}}) {
    SCOPED_TRACE(layout);
    const auto begin = std::chrono::steady_clock::now();
    const std::string printed =
        folder.succeed(fmt::format("train tiny.textproto --steps 3 --out {0} --set parallel.layout={0}", layout), 2);
    const std::chrono::duration<double> whole = std::chrono::steady_clock::now() - begin;
    for (const nlohmann::json& line : whole_lines(folder, layout)) {
      for (const auto& [axis, seconds] : line.at("exposed_s").items()) {
        EXPECT_TRUE(axis == "world" || std::ranges::find(axes, axis) != axes.end()) << axis;
        EXPECT_EQ(line.at("sent_bytes").at(axis).at("across"), 0);
        EXPECT_LT(seconds.get<double>(), whole.count()) << axis;  // no rank waits longer than it is there
      }
      for (const std::string& axis : axes) {
        EXPECT_GT(line.at("exposed_s").at(axis), 0.0) << axis;
        EXPECT_GT(line.at("sent_bytes").at(axis).at("inside"), 0) << axis;
      }
    }
    EXPECT_THAT(printed, HasSubstr("Communication by axis"));
    folder.succeed("report " + layout);
    EXPECT_THAT(folder.read(layout + "/report.html"),
                AllOf(HasSubstr("<h2>Communication by axis</h2>"), HasSubstr("Exposed communication")));
    for (const std::string& axis : axes)
      EXPECT_THAT(folder.read(layout + "/report.html"), HasSubstr("<tr><th>" + axis + "</th>"));
  }
}

/// Two ranks sum the gradients of a dense model: each hands out as many bytes as there are, 4 a parameter. Statistics
/// of the step and what fills buckets up to 64 bytes a parameter is little beside that.
TEST(CommunicationRuns, DataParallelismSendsItsGradientsOnce) {
  const RunFolder folder("gradient_bytes");
  folder.succeed("train tiny.textproto --steps 2 --out run --set model.moe.num_experts=0 --set parallel.layout=dp2", 2);
  const auto start = nlohmann::json::parse(folder.read("run/start.json"));
  const double gradients = 4 * start.at("parameters").at("trainable").get<double>();
  for (const nlohmann::json& line : whole_lines(folder, "run")) {
    const double sent = line.at("sent_bytes").at("dp").at("inside");
    EXPECT_GE(sent, gradients);
    EXPECT_LT(sent, 1.03 * gradients);
  }
}

TEST(CommunicationRuns, OneRankHasNothingToSay) {
  const RunFolder folder("alone");
  EXPECT_THAT(folder.succeed("train tiny.textproto --steps 2 --out run"), Not(HasSubstr("Communication")));
  for (const nlohmann::json& line : whole_lines(folder, "run"))
    EXPECT_FALSE(line.contains("exposed_s") || line.contains("sent_bytes"));
  folder.succeed("report run");
  EXPECT_THAT(folder.read("run/report.html"),
              AllOf(Not(HasSubstr("Communication by axis")), Not(HasSubstr("Exposed communication"))));
}

}  // namespace
}  // namespace limbeck::testing
