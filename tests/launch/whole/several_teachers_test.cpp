// Runs whose texts have teachers of their own (teacher.teaches, teacher.others).
#include <fmt/format.h>
#include <gmock/gmock.h>

#include <cmath>

#include "tests/support/run_limbeck.h"

namespace limbeck {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using testing::Outcome;
using testing::RunFolder;

/// Two teachers, each trained on one of two texts.
void write_jobs(const RunFolder& folder) {
  folder.write("teacher.textproto", R"(
model { width: 16 num_layers: 2 num_heads: 2 mlp_width: 24 max_positions: 64 vocabulary: 260 }
data { tokenizer: "bytes" sequence_length: 24 held_out_fraction: 0 }
optimizer { rate: 2e-2 } schedule { warmup_steps: 0 } batch { sequences_per_step: 4 } train { steps: 12 threads: 1 }
)");
  folder.succeed("train teacher.textproto --out of_a --set data.text=text/0.txt");
  folder.succeed(
      "train teacher.textproto --out of_b --set data.text=text/3.txt --set model.num_layers=1 --set "
      "model.width=24 --set model.vocabulary=257");
  folder.write("job.textproto", R"(
model { width: 16 num_layers: 1 num_heads: 2 mlp_width: 16 max_positions: 64 vocabulary: 259 }
data {
  sources { text: "text/0.txt" text: "text/1.txt" text: "text/2.txt" weight: 2 name: "a" }
  sources { text: "text/3.txt" text: "text/4.txt" text: "text/5.txt" weight: 1 }
  tokenizer: "bytes" sequence_length: 24 held_out_fraction: 0.4
}
objective { cross_entropy_weight: 0.1 temperature: 1.5 }
optimizer { rate: 5e-3 } schedule { kind: CONSTANT warmup_steps: 0 }
batch { sequences_per_step: 6 }
train { steps: 3 eval_tokens: 192 seed: 4 threads: 1 log_every_steps: 1 }
)");
}

json start_of(const RunFolder& folder, const std::string& run) { return json::parse(folder.read(run + "/start.json")); }

void expect_alike(const RunFolder& folder, const std::string& run, const std::string& other) {
  const auto lines = folder.metrics(run), others = folder.metrics(other);
  ASSERT_EQ(lines.size(), others.size());
  for (std::size_t i = 0; i < lines.size(); ++i)
    for (const char* field : {"loss", "kl", "teacher_ce", "top1_agreement", "grad_norm"})
      EXPECT_NEAR(lines[i].at(field).get<double>(), others[i].at(field).get<double>(), 2e-5) << field << i;
}

TEST(SeveralTeachers, EachTeachesItsText) {
  const RunFolder folder("several_teachers");
  write_jobs(folder);
  const std::string a = " --set teacher.source=of_a", b = " --set teacher.source=of_b";
  const std::string each =
      " --set 'teacher { source: \"of_a\" teaches: \"a\" others { source: \"of_b\" teaches: \"1\" } }'";
  folder.succeed("distill job.textproto --out a" + a);
  folder.succeed("distill job.textproto --out b" + b);
  const std::string said = folder.succeed("distill job.textproto --out each" + each);
  EXPECT_THAT(said, HasSubstr("source a: the teachers' shares are 1, 0"));
  EXPECT_THAT(said, HasSubstr("source 1: the teachers' shares are 0, 1"));

  // Of each source's held-out text the figures are those against its teacher.
  const json of_each = start_of(folder, "each").at("sets");
  for (const auto& [source, run] : {std::pair{"held_out/a", "a"}, {"held_out/1", "b"}})
    for (const char* figure : {"kl", "teacher_ce", "top1_agreement", "sum_min"})
      EXPECT_NEAR(of_each.at(source).at(figure).get<double>(),
                  start_of(folder, run).at("sets").at(source).at(figure).get<double>(), 1e-6)
          << source << figure;
  EXPECT_GT(std::abs(start_of(folder, "a").at("sets").at("held_out/1").at("kl").get<double>() -
                     of_each.at("held_out/1").at("kl").get<double>()),
            1e-3);

  // Four of a step's six sequences are of the first source.
  const double of_a = folder.metrics("a")[0]["teacher_ce"], of_b = folder.metrics("b")[0]["teacher_ce"];
  const double both = folder.metrics("each")[0]["teacher_ce"];
  EXPECT_NE(both, of_a);
  EXPECT_NE(both, of_b);

  for (const auto& [layout, ranks] : {std::pair{"dp2", 2}, {"tp2", 2}, {"cp2", 2}}) {
    folder.succeed(
        fmt::format("distill job.textproto --out {0} --set parallel.layout={0} --set batch.micro_batches=2{1}", layout,
                    each),
        ranks);
    expect_alike(folder, layout, "each");
  }
  folder.succeed("distill job.textproto --out resumed --steps 2" + each);
  folder.succeed("distill job.textproto --out resumed --resume --steps 3" + each);
  EXPECT_EQ(folder.metrics("resumed").back().at("kl"), folder.metrics("each").back().at("kl"));
}

TEST(SeveralTeachers, TwoThatAreOneTeachAsOne) {
  const RunFolder folder("equal_teachers");
  write_jobs(folder);
  folder.succeed("distill job.textproto --out one --set teacher.source=of_a");
  folder.succeed(
      "distill job.textproto --out two --set 'teacher { source: \"of_a\" weight: 3 others { source: \"of_a\" } }'");
  expect_alike(folder, "two", "one");
  // Also of text that the student says, whose prompts are of the sources.
  const std::string sampled = " --set 'objective { sampled_text { fraction: 1 prompt_tokens: 8 } }'";
  folder.succeed("distill job.textproto --out said_one --set teacher.source=of_a" + sampled);
  folder.succeed(
      "distill job.textproto --out said_two --set 'teacher { source: \"of_a\" others { source: \"of_a\" } }'" +
      sampled);
  expect_alike(folder, "said_two", "said_one");
}

TEST(SeveralTeachers, AreNotCached) {
  const RunFolder folder("cached_teachers");
  write_jobs(folder);
  const Outcome cached = folder.limbeck(
      "cache-teacher job.textproto --out kept --set 'teacher { source: \"of_a\" others { source: \"of_b\" } }'");
  EXPECT_EQ(cached.code, 2) << cached.output;
  EXPECT_THAT(cached.output, HasSubstr("teacher.others is given, expected none: a cache is of one teacher"));
}

}  // namespace
}  // namespace limbeck
