// A student of another width than its teacher's, held to its hidden states through projectors, against the formulas
// written out.
#include <gmock/gmock.h>

#include <cmath>

#include "core/random.h"
#include "data/files/hdf5_file.h"
#include "launch/run/model_source.h"
#include "tests/support/written_out_run.h"

namespace limbeck::testing {
namespace {

using nlohmann::json;

constexpr const char* teacher_job = R"(
model { vocabulary: 264 width: 16 num_layers: 4 num_heads: 2 mlp_width: 20 max_positions: 64 }
data { text: "text" tokenizer: "bytes" sequence_length: 24 held_out_fraction: 0.35 }
optimizer { rate: 2e-2 } schedule { warmup_steps: 0 } batch { sequences_per_step: 4 } train { steps: 4 threads: 1 }
)";

constexpr const char* distill_job = R"(
teacher { source: "teacher" }
model {
  vocabulary: 264 width: 12 num_layers: 2 num_heads: 2 mlp_width: 20 max_positions: 64
  moe { num_experts: 4 experts_per_token: 2 expert_width: 12 }
}
data { text: "text" sequence_length: 24 held_out_fraction: 0.35 seed: 5 }
objective { cross_entropy_weight: 0.3 hidden_states { weight: 0.7 distance: SQUARED_ERROR projector: true } }
optimizer { rate: 5e-3 }
schedule { warmup_steps: 0 }
batch { sequences_per_step: 5 }
train { steps: 4 seed: 11 eval_tokens: 120 log_every_steps: 1 threads: 1 }
)";

const std::string projector = "distillation/hidden_states.{}.weight";

TEST(EndToEnd, HiddenStatesOfAnotherWidthGoThroughProjectors) {
  const RunFolder folder("hidden_states");
  folder.write("teacher.textproto", std::string(teacher_job) + in_float64);
  folder.write("job.textproto", std::string(distill_job) + in_float64);
  ASSERT_EQ(folder.limbeck("train teacher.textproto --out teacher").code, 0);
  const Outcome run = folder.limbeck("distill job.textproto --out one --steps 1 --dump-gradients one.h5");
  ASSERT_EQ(run.code, 0) << run.output;

  const launch::ModelSource source = launch::open_model(folder.path() / "teacher");
  const WrittenOut teacher(source.config, read_weights(source.config, *source.reader));
  nn::ModelConfig config = source.config;
  config.width = 12;
  config.head_width = 6;
  config.num_layers = 2;
  config.moe.num_experts = 4;
  config.moe.experts_per_token = 2;
  config.moe.expert_width = 12;
  const WrittenOut student(config, init_weights(config, 11));
  data::Loader loader(byte_token_file(folder, 0, 5),
                      {.sequence_length = 24, .vocabulary = num_byte_tokens, .seed = 5, .held_out = 0.35});
  const data::TokenBatch samples = loader.fetch(0, 5);
  core::Tape off(core::Tape::Mode::Off);
  const WrittenOut::Pass ours = student.run(off, samples), theirs = teacher.run(off, samples);
  const double targets = static_cast<double>(samples.num_targets());
  const data::Hdf5File dump = data::Hdf5File::open(folder.path() / "one.h5");
  double loss = 0;
  for (std::size_t layer = 0; layer < 2; ++layer) {
    const std::string name = fmt::format(fmt::runtime(projector), layer);
    const core::RandomStream random(11, 0, name);
    std::vector<double> weight, gradient(16 * 12, 0.0);
    for (std::uint64_t i = 0; i < 16 * 12; ++i) weight.push_back(random.normal(i) / std::sqrt(12));
    const double* x = ours.states[layer + 1].value.data<double>();
    const double* y = theirs.states[2 * layer + 2].value.data<double>();  // of twice as many layers
    for (std::size_t t = 0; t < samples.tokens.size(); ++t)
      for (std::size_t c = 0; c < 16 && samples.targets[t] >= 0; ++c) {
        double apart = -y[t * 16 + c];
        for (std::size_t k = 0; k < 12; ++k) apart += weight[c * 12 + k] * x[t * 12 + k];
        loss += 0.7 / 2 / targets * apart * apart / 16;
        for (std::size_t k = 0; k < 12; ++k) gradient[c * 12 + k] += 0.7 / targets * apart / 16 * x[t * 12 + k];
      }
    const core::Tensor found =
        dump.read_dataset(data::hdf5_path("/gradients", name), core::Memory::cpu(1), core::DType::F64);
    ASSERT_EQ(found.shape(), (core::Shape{16, 12}));
    for (std::size_t i = 0; i < gradient.size(); ++i) EXPECT_NEAR(found.data<double>()[i], gradient[i], 1e-12) << i;
  }
  expect_near(whole_lines(folder, "one")[0]["hidden_loss"], loss, "hidden_loss");

  // Under every layout, and resumed, the same; what they learn is no part of the model.
  ASSERT_EQ(folder.limbeck("distill job.textproto --out whole").code, 0);
  const Outcome gone_on = folder.limbeck("distill job.textproto --out one --resume");
  ASSERT_EQ(gone_on.code, 0) << gone_on.output;
  const std::vector<json> whole = whole_lines(folder, "whole"), resumed = whole_lines(folder, "one");
  ASSERT_EQ(resumed.size(), 4U);
  for (std::size_t i = 0; i < 4; ++i) EXPECT_EQ(whole[i]["loss"], resumed[i]["loss"]) << i;
  EXPECT_LT(whole[3]["hidden_loss"], whole[0]["hidden_loss"]);
  for (const std::string layout : {"dp2", "tp2", "tp2 --set parallel.sequence_parallel=true", "ep2"}) {
    SCOPED_TRACE(layout);
    const Outcome cut =
        folder.limbeck(fmt::format("distill job.textproto --out {} --set parallel.layout={}", layout, layout), 2);
    ASSERT_EQ(cut.code, 0) << cut.output;
    const std::string out = layout.substr(0, 3);
    const std::vector<json> lines = whole_lines(folder, out);
    for (std::size_t i = 0; i < 4; ++i) expect_near(lines[i]["loss"], whole[i]["loss"], "loss");
    std::filesystem::remove_all(folder.path() / out);
  }
  const Outcome converted = folder.limbeck("convert whole student");
  EXPECT_EQ(converted.code, 0) << converted.output;
  const Outcome refused = folder.limbeck("distill job.textproto --out x --set objective.hidden_states.projector=false");
  EXPECT_EQ(refused.code, 2);
  EXPECT_THAT(refused.output, ::testing::HasSubstr("projector is false, expected true"));
}

}  // namespace
}  // namespace limbeck::testing
