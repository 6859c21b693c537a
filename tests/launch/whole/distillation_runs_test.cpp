// The program as its users run it, with a teacher: whole, cut, in other precisions and in blocks; resumed, and refused
// another.

#include <fmt/format.h>
#include <gmock/gmock.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <string>

#include "tests/support/run_limbeck.h"

namespace limbeck {
namespace {

using ::testing::HasSubstr;
using testing::Outcome;
using testing::RunFolder;

TEST(EndToEnd, DistillsFromATeacherThatItTrained) {
  const RunFolder folder("distill");
  const std::string teacher =
      "train tiny.textproto --steps 8 --out teacher --set model.moe.num_experts=0 --set model.num_layers=3";
  const Outcome trained = folder.limbeck(teacher);
  ASSERT_EQ(trained.code, 0) << trained.output;
  folder.write("distill.textproto", R"(
teacher { source: "teacher" }
student_init { num_layers: 2 calibration_tokens: 192 upcycle { slices: 2 experts: 4 experts_per_token: 2 } }
data { text: "text" sequence_length: 48 held_out_fraction: 0.2 }
objective { cross_entropy_weight: 0.1 }
batch { sequences_per_step: 4 }
train { steps: 12 eval_tokens: 384 checkpoint_every_steps: 6 eval_every_steps: 6 threads: 1 }
generation { prompt: "the still " max_tokens: 8 }
)");
  const Outcome distilled = folder.limbeck("distill distill.textproto --set parallel.layout=ep2 --out student", 2);
  ASSERT_EQ(distilled.code, 0) << distilled.output;
  for (const char* text : {"KL to the teacher", "unigram", "tokens/s", "by the student after", "limbeck convert"})
    EXPECT_THAT(distilled.output, HasSubstr(text));
  const auto metrics = folder.metrics("student");
  ASSERT_EQ(metrics.size(), 12U);
  for (const char* field : {"kl", "ce", "teacher_ce", "top1_agreement", "expert_load"})
    EXPECT_TRUE(metrics[0].contains(field)) << field;
  for (const char* field : {"eval_ce", "eval_kl", "eval_top1_agreement", "eval_sum_min"})
    EXPECT_TRUE(metrics[5].contains(field)) << field;

  // The teacher and its measurements cut over two ranks: the first steps are those of ep2, to rounding.
  const Outcome cut = folder.limbeck(
      "distill distill.textproto --steps 2 --set train.eval_every_steps=2 --set parallel.layout=tp2 --out cut", 2);
  ASSERT_EQ(cut.code, 0) << cut.output;
  const auto with_tensors = folder.metrics("cut");
  for (const std::size_t step : {0U, 1U})
    for (const char* field : {"loss", "kl", "ce", "teacher_ce", "grad_norm"}) {
      const double value = metrics[step][field];
      EXPECT_NEAR(with_tensors[step][field].get<double>(), value, 1e-4 * value) << field;
    }
  const auto unigram = [](const Outcome& run) {  // without the time of day
    const std::string line = run.lines_with("unigram KL").at(0);
    return line.substr(line.find("teacher "));
  };
  EXPECT_EQ(unigram(cut), unigram(distilled));
  EXPECT_EQ(with_tensors[0]["expert_load"], metrics[0]["expert_load"]);

  // Stopped between, and continued in another process: the same lines, the same table.
  const std::string parts = "distill distill.textproto --set parallel.layout=ep2 --out parts ";
  ASSERT_EQ(folder.limbeck(parts + "--steps 6", 2).code, 0);
  const Outcome rest = folder.limbeck(parts + "--resume", 2);
  ASSERT_EQ(rest.code, 0) << rest.output;
  EXPECT_EQ(folder.metrics("parts"), metrics);
  for (const char* row : {"KL to the teacher", "sum min(p,q)"}) {
    EXPECT_FALSE(distilled.lines_with(row).empty()) << row;
    EXPECT_EQ(rest.lines_with(row), distilled.lines_with(row));
  }

  const double exact = metrics[0]["teacher_ce"];
  for (const char* narrow : {"frozen_storage=BFLOAT16", "bfloat16_teacher=true", "compute=BFLOAT16"}) {
    const Outcome outcome = folder.limbeck(
        fmt::format("distill distill.textproto --steps 1 --set precision.{0} --out 'narrow {0}'", narrow));
    ASSERT_EQ(outcome.code, 0) << outcome.output;
    const nlohmann::json step = folder.metrics(fmt::format("narrow {}", narrow))[0];
    const double rounded = step["teacher_ce"], own = step["ce"], own_exact = metrics[0]["ce"];
    EXPECT_NEAR(rounded, exact, 0.02) << narrow;
    EXPECT_GT(std::abs(rounded - exact), 1e-5) << narrow;  // more than another layout makes
    EXPECT_NEAR(own, own_exact, 0.02) << narrow;
    EXPECT_EQ(std::abs(own - own_exact) > 1e-5, std::string(narrow) == "compute=BFLOAT16") << narrow;
  }
  ASSERT_EQ(folder
                .limbeck("distill distill.textproto --steps 1 --set precision.compute=BFLOAT16 --set "
                         "precision.float32_teacher=true --out wide")
                .code,
            0);
  const nlohmann::json wide = folder.metrics("wide")[0];
  EXPECT_NEAR(wide["teacher_ce"].get<double>(), exact, 1e-5);  // on one rank, not on two
  EXPECT_EQ(wide["ce"], folder.metrics("narrow compute=BFLOAT16")[0]["ce"]);
  const Outcome stream = folder.limbeck(
      "distill distill.textproto --steps 1 --set precision.compute=BFLOAT16 --set precision.bfloat16_residual=true "
      "--out stream");
  ASSERT_EQ(stream.code, 0) << stream.output;
  EXPECT_NE(folder.metrics("stream")[0]["ce"], folder.metrics("narrow compute=BFLOAT16")[0]["ce"]);
  const Outcome fp8 = folder.limbeck(
      "distill distill.textproto --steps 1 --set precision.compute=BFLOAT16 --set precision.fp8_products=true --out "
      "fp8");
  ASSERT_EQ(fp8.code, 0) << fp8.output;
  EXPECT_EQ(fp8.lines_with("precision.fp8_products: FP8's rounding with float32 arithmetic").size(), 1U) << fp8.output;
  const double eighth = folder.metrics("fp8")[0]["ce"], half = folder.metrics("narrow compute=BFLOAT16")[0]["ce"];
  EXPECT_NEAR(eighth, half, 0.05);
  EXPECT_NE(eighth, half);
  EXPECT_EQ(folder.metrics("fp8")[0]["teacher_ce"], folder.metrics("narrow compute=BFLOAT16")[0]["teacher_ce"]);
}

// A teacher in the blocks of its file, whole or cut over two ranks, is the teacher that was read from it.
TEST(EndToEnd, ATeacherMayStayInTheBlocksOfItsFile) {
  const RunFolder folder("blocks");
  ASSERT_EQ(folder
                .limbeck("train tiny.textproto --steps 4 --out trained --set model.width=64 --set "
                         "model.moe.expert_width=64")
                .code,
            0);
  ASSERT_EQ(folder.limbeck("convert trained teacher.gguf --dtype Q8_0").code, 0);
  folder.write("distill.textproto", R"(
teacher { source: "teacher.gguf" }
model { width: 32 num_layers: 1 num_heads: 2 num_kv_heads: 1 mlp_width: 32 max_positions: 64 }
data { text: "text" tokenizer: "bytes" sequence_length: 48 held_out_fraction: 0.2 }
batch { sequences_per_step: 2 }
train { steps: 2 eval_tokens: 192 threads: 1 }
)");
  ASSERT_EQ(folder.limbeck("distill distill.textproto --out read").code, 0);
  const nlohmann::json read = folder.metrics("read")[1];
  for (const int ranks : {1, 2}) {
    const std::string run = fmt::format("mapped{}", ranks);
    const Outcome outcome =
        folder.limbeck("distill distill.textproto --set precision.mapped_teacher=true --set parallel.layout=tp" +
                           std::to_string(ranks) + " --out " + run,
                       ranks);
    ASSERT_EQ(outcome.code, 0) << outcome.output;
    for (const char* field : {"teacher_ce", "kl", "loss"})
      EXPECT_NEAR(folder.metrics(run)[1][field].get<double>(), read[field].get<double>(), 1e-4) << field << ranks;
  }
}

// A teacher that is quantised when it is read is that of a file of the same blocks: the same run, whole or cut over two
// ranks, some of whose parts cut blocks.
TEST(EndToEnd, AQuantisedTeacherIsThatOfAQuantisedFile) {
  const RunFolder folder("quantised_teacher");
  folder.succeed("train tiny.textproto --steps 4 --out trained --set model.width=64 --set model.moe.expert_width=32");
  folder.write("distill.textproto", R"(
model { width: 32 num_layers: 1 num_heads: 2 num_kv_heads: 1 mlp_width: 32 max_positions: 64 }
data { text: "text" tokenizer: "bytes" sequence_length: 48 held_out_fraction: 0.2 }
batch { sequences_per_step: 2 }
train { steps: 2 eval_tokens: 192 threads: 1 }
)");
  for (const std::string dtype : {"Q8_0", "Q4_0"}) {
    folder.succeed("convert trained teacher" + dtype + ".gguf --dtype " + dtype);
    for (const int ranks : {1, 2}) {
      SCOPED_TRACE(fmt::format("{} {}", dtype, ranks));
      const std::string layout = " --set parallel.layout=tp" + std::to_string(ranks);
      const std::string run = fmt::format("{}{}", dtype, ranks);
      folder.succeed("distill distill.textproto --set precision.mapped_teacher=true --set teacher.source=teacher" +
                         dtype + ".gguf --out of_file" + run + layout,
                     ranks);
      const std::string said = folder.succeed(
          "distill distill.textproto --set teacher.source=trained --set "
          "precision.quantised_teacher=" +
              dtype + " --out quantised" + run + layout,
          ranks);
      EXPECT_THAT(said, AllOf(HasSubstr("the teacher, trained/"), HasSubstr(", is quantised as " + dtype + ": 0.")));
      for (const std::size_t step : {0U, 1U})
        for (const char* field : {"loss", "kl", "teacher_ce", "grad_norm"})
          EXPECT_EQ(folder.metrics("quantised" + run).at(step).at(field),
                    folder.metrics("of_file" + run).at(step).at(field))
              << field;
    }
  }
  folder.succeed("distill distill.textproto --set teacher.source=trained --out read");
  EXPECT_NE(folder.metrics("read").at(0).at("kl"), folder.metrics("quantisedQ4_01").at(0).at("kl"));
  const Outcome resumed =
      folder.limbeck("distill distill.textproto --set teacher.source=trained --steps 3 --resume --out quantisedQ4_01");
  EXPECT_NE(resumed.code, 0) << resumed.output;
  EXPECT_THAT(resumed.output, HasSubstr("teacher"));
}

TEST(EndToEnd, DistillingBringsARandomStudentNearerToItsTeacher) {
  const RunFolder folder("nearer");
  const Outcome trained = folder.limbeck(
      "train tiny.textproto --out teacher --set model.moe.num_experts=0 --set optimizer.rate=1e-2 --set "
      "train.steps=40");
  ASSERT_EQ(trained.code, 0) << trained.output;
  const Outcome distilled = folder.limbeck(
      "distill tiny.textproto --set teacher.source=teacher --set model.num_layers=1 --set "
      "objective.cross_entropy_weight=0 "
      "--set optimizer.rate=1e-2 --set train.eval_every_steps=6 --out student");
  ASSERT_EQ(distilled.code, 0) << distilled.output;
  const nlohmann::json start = nlohmann::json::parse(folder.read("student/start.json"));
  double last = start["student"]["kl"];
  for (const std::size_t step : {6U, 12U, 18U, 24U}) {
    const double kl = folder.metrics("student").at(step - 1)["eval_kl"];
    EXPECT_LT(kl, last) << "after step " << step;
    last = kl;
  }
  EXPECT_LT(last, start["unigram"]["kl"].get<double>());
}

TEST(EndToEnd, AnotherTeacherIsRefusedWhenARunGoesOn) {
  const RunFolder folder("other_teacher");
  const std::string teacher = "train tiny.textproto --set model.moe.num_experts=0 --out teacher --quiet ";
  ASSERT_EQ(folder.limbeck(teacher + "--steps 4").code, 0);
  folder.write("distill.textproto", R"(
teacher { source: "teacher" }
student_init { num_layers: 1 calibration_tokens: 96 }
data { text: "text" sequence_length: 48 held_out_fraction: 0.2 }
batch { sequences_per_step: 4 }
train { steps: 6 eval_tokens: 96 threads: 1 }
)");
  ASSERT_EQ(folder.limbeck("distill distill.textproto --out student --steps 2 --quiet").code, 0);
  // A teacher that is the same under another name is the same.
  const Outcome same = folder.limbeck(
      "distill distill.textproto --out student --steps 4 --resume --quiet --set "
      "teacher.source=teacher/checkpoints/step_4");
  EXPECT_EQ(same.code, 0) << same.output;
  ASSERT_EQ(folder.limbeck(teacher + "--steps 8 --resume").code, 0);
  const Outcome other = folder.limbeck("distill distill.textproto --out student --resume");
  EXPECT_EQ(other.code, 1) << other.output;
  const auto errors = other.lines_with("limbeck: error");
  ASSERT_EQ(errors.size(), 1U) << other.output;
  for (const char* part : {"teacher/checkpoints/step_4", "teacher/checkpoints/step_8", "expected the same teacher"})
    EXPECT_THAT(errors[0], HasSubstr(part));
}

}  // namespace
}  // namespace limbeck
