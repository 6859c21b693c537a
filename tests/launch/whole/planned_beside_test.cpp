// What a run took beside what `limbeck plan` says of it, in metrics.jsonl and on the report's page.
#include <fmt/format.h>
#include <gmock/gmock.h>

#include <algorithm>

#include "tests/support/powercap.h"
#include "tests/support/run_limbeck.h"
#include "tests/support/written_out_run.h"

namespace limbeck::testing {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr const char* cluster = R"(
name: "a shelf" devices_a_node: 2
device { memory_gib: 1 float32_tflops: 0.1 bfloat16_tflops: 0.1 memory_gb_s: 10 watts: 12 }
inside { gb_s: 1 }
price { device_hour: 3.6 kwh: 0.5 currency: "EUR" }
)";

/// Cells of the row, planned and measured.
std::vector<std::string> row(const std::string& page, const std::string& name) {
  const std::size_t at = page.find("<tr><th>" + name + "</th>");
  EXPECT_NE(at, std::string::npos) << name;
  std::vector<std::string> cells;
  const std::string line = page.substr(at, page.find("</tr>", at) - at);
  for (std::size_t from = line.find("<td>"); from != std::string::npos; from = line.find("<td>", from + 1))
    cells.push_back(line.substr(from + 4, line.find("</td>", from) - from - 4));
  return cells;
}

/// Parts of a rank's memory, as the run's last line has them, are those of the plan: what stays to 2 %, activations to
/// 10 %.
void expect_planned(const json& taken, const json& planned) {
  for (const char* part : {"parameters", "gradients", "optimizer", "copy", "activations"}) {
    const double expected = planned[part];
    EXPECT_NEAR(taken[part].get<double>(), expected, (part == std::string("activations") ? 0.1 : 0.02) * expected)
        << part;
  }
}

TEST(PlannedBeside, MemoryOfSharedParametersIsThatOfThePlan) {
  const RunFolder folder("planned_shares");
  const std::string config =
      "tiny.textproto --set model.moe.num_experts=0 --set train.steps=2 --set parallel.shard=PARAMETERS ";
  folder.succeed("train " + config + "--out run", 2);
  const json plan = json::parse(folder.succeed("plan " + config + "--ranks 2 --json"));
  expect_planned(whole_lines(folder, "run").back()["memory_bytes"], plan["memory"]);
}

TEST(PlannedBeside, MemoryAndBytesAreThoseOfThePlan) {
  const RunFolder folder("planned_beside");
  folder.write("cluster.textproto", cluster);
  const std::string config =
      "tiny.textproto --set model.moe.num_experts=0 --set train.steps=5 --set parallel.layout=dp2 ";
  folder.succeed("train " + config + "--out run", 2);
  const json plan = json::parse(folder.succeed("plan " + config + "--ranks 2 --json"));
  const json line = whole_lines(folder, "run").back();
  expect_planned(line["memory_bytes"], plan["memory"]);
  EXPECT_FALSE(line.contains("joules"));  // by no powercap

  folder.succeed("report run --cluster cluster.textproto");
  const std::string page = folder.read("run/report.html");
  EXPECT_THAT(page, AllOf(HasSubstr("<h2>Planned beside measured</h2>"), HasSubstr("Planned on a shelf."),
                          HasSubstr("Energy, measured: declared: 24 W of a shelf."), Not(HasSubstr("not planned"))));
  EXPECT_EQ(row(page, "memory: parameters")[0], row(page, "memory: parameters")[1]);
  EXPECT_EQ(row(page, "memory: gradients")[0], row(page, "memory: gradients")[1]);
  // Each rank hands its gradients out, and the run besides some figures of the step.
  const std::vector<std::string> sent = row(page, "sent a step along dp, inside nodes");
  EXPECT_NEAR(std::stod(sent[1]), std::stod(sent[0]), 0.25 * std::stod(sent[0]));
  // What was measured: 24 W and 2 x 3.6 EUR an hour, 0.5 EUR a kWh, of the seconds in steps and 5 x 192 tokens.
  const double seconds = line["seconds"], tokens = line["tokens"];
  EXPECT_EQ(tokens, 5 * 4 * 48);
  EXPECT_EQ(row(page, "J a token")[1], fmt::format("{:.3g}", 24 * seconds / tokens));
  EXPECT_EQ(row(page, "EUR a million tokens")[1],
            fmt::format("{:.3g}", (seconds / 3600 * 2 * 3.6 + 24 * seconds / 3.6e6 * 0.5) / tokens * 1e6));
  // The config's prompt, said by two ranks.
  const json decode = json::parse(folder.read("run/start.json"))["decode"];
  EXPECT_EQ(decode["ranks"], 2);
  const double said = decode["tokens"], said_seconds = decode["seconds"];
  const std::vector<std::string> model = row(page, "model");
  EXPECT_EQ(model[1], fmt::format("{:.1f}", said / said_seconds));
  EXPECT_EQ(model[2], fmt::format("{:.3g}", 24 * said_seconds / said));

  folder.succeed("report run --quiet");
  EXPECT_THAT(folder.read("run/report.html"),
              AllOf(HasSubstr("<th>memory: gradients</th>"), Not(HasSubstr("declared"))));
}

TEST(PlannedBeside, CountersGoBeforeWhatIsDeclared) {
  const RunFolder folder("joules");
  folder.write("cluster.textproto", cluster);
  const Powercap powercap;  // of a machine that takes nothing
  powercap.zone("intel-rapl:0", "package-0", 5, 1000);
  const std::string with_counters = fmt::format("export LIMBECK_POWERCAP={}; ", powercap.path().string());
  const auto run = [&](const std::string& command) {
    const Outcome outcome = run_shell(with_counters + folder.command(command));
    EXPECT_EQ(outcome.code, 0) << outcome.output;
    return outcome.output;
  };
  run("train tiny.textproto --steps 2 --out run");
  for (const json& line : whole_lines(folder, "run")) EXPECT_EQ(line["joules"], 0.0);
  EXPECT_EQ(json::parse(folder.read("run/start.json"))["starts"][0]["energy"], "RAPL");
  folder.succeed("report run --cluster cluster.textproto");
  EXPECT_THAT(folder.read("run/report.html"), AllOf(HasSubstr("Energy, measured: RAPL."), Not(HasSubstr("declared"))));
  EXPECT_EQ(row(folder.read("run/report.html"), "J a token")[1], "0");

  const std::string generate = "generate run --prompt 'the still' --max-tokens 5 --cluster cluster.textproto";
  EXPECT_THAT(run(generate), HasSubstr("decode: 0 J a token (RAPL), "));
  EXPECT_THAT(folder.succeed(generate), HasSubstr(" J a token (declared: 12 W of a shelf), "));
  EXPECT_THAT(folder.succeed(generate), HasSubstr(" EUR a million tokens"));
  EXPECT_EQ(folder.limbeck("generate run --prompt a --cluster none.textproto").code, 1);
}

}  // namespace
}  // namespace limbeck::testing
