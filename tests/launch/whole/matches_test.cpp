// A student of experts that is held to its teacher's routing, attention and feed-forwards, and the gradients' lengths
// by term, against the formulas written out.
#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "launch/run/model_source.h"
#include "tests/support/written_out_run.h"

namespace limbeck::testing {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

constexpr const char* distill_job = R"(
teacher { source: "teacher" }
student_init { num_layers: 2 choice: LIST layers: [0, 2] }
data { text: "text" sequence_length: 24 held_out_fraction: 0.35 seed: 5 }
objective {
  cross_entropy_weight: 0.3
  routers { weight: 0.9 }
  attention { weight: 0.7 distance: SQUARED_ERROR }
  feed_forward { weight: 0.5 }
}
optimizer { rate: 5e-3 }
schedule { warmup_steps: 0 }
batch { sequences_per_step: 5 }
train { steps: 3 seed: 11 eval_tokens: 120 log_every_steps: 1 threads: 1 }
)";

std::vector<double> softmax(std::vector<double> z) {
  const double most = *std::ranges::max_element(z);
  double sum = 0;
  for (double& v : z) sum += v = std::exp(v - most);
  for (double& v : z) v /= sum;
  return z;
}

/// Probabilities [E] of a token's experts.
std::vector<double> routing_of(const WrittenOut::Pass& pass, WrittenOut& model, std::size_t layer, std::size_t token) {
  const double* x = pass.router_inputs[layer].data<double>() + token * 16;
  const double* weight = model.weights().at(fmt::format("layers.{}.moe.router.weight", layer)).value.data<double>();
  std::vector<double> z(4, 0.0);
  for (std::size_t e = 0; e < 4; ++e)
    for (std::size_t c = 0; c < 16; ++c) z[e] += weight[e * 16 + c] * x[c];
  return softmax(z);
}

std::array<std::size_t, 2> two_best(const std::vector<double>& p) {
  std::array<std::size_t, 4> order = {0, 1, 2, 3};
  std::ranges::stable_sort(order, [&](std::size_t a, std::size_t b) { return p[a] > p[b]; });
  return {order[0], order[1]};
}

/// By load: weights of the teacher's tokens of a sequence. Beside it the length of its gradient with respect to the
/// routers' logits.
std::pair<double, double> router_loss(const WrittenOut::Pass& ours, WrittenOut& student, const WrittenOut::Pass& theirs,
                                      WrittenOut& teacher, const data::TokenBatch& samples) {
  double loss = 0, square = 0;
  for (const auto& [layer, of_teacher] : {std::pair<std::size_t, std::size_t>{0, 0}, {1, 2}})
    for (std::size_t first = 0; first < samples.tokens.size(); first += 24) {
      std::array<double, 4> load = {};
      for (std::size_t t = first; t < first + 24; ++t)
        for (const std::size_t e : two_best(routing_of(theirs, teacher, of_teacher, t))) load[e] += 1;
      const auto used = static_cast<double>(std::ranges::count_if(load, [](double n) { return n > 0; }));
      for (std::size_t t = first; t < first + 24; ++t) {
        if (samples.targets[t] < 0) continue;
        const std::vector<double> p = routing_of(theirs, teacher, of_teacher, t),
                                  q = routing_of(ours, student, layer, t);
        double kl = 0, weight = 0;
        for (std::size_t e = 0; e < 4; ++e) kl += p[e] * std::log(p[e] / q[e]);
        for (const std::size_t e : two_best(p)) weight += 24 / used / load[e];
        weight *= 0.9 / 2 / static_cast<double>(samples.num_targets());
        loss += weight * kl;
        for (std::size_t e = 0; e < 4; ++e) square += std::pow(weight * (q[e] - p[e]), 2);
      }
    }
  return {loss, std::sqrt(square)};
}

// Layers with experts between dense ones: a student of the former is held to what they were, wherever it spreads.
TEST(EndToEnd, RoutersOfLayersBetweenDenseOnesAreMatched) {
  const RunFolder folder("matches_mixed");
  folder.write("teacher.textproto", teacher_of_experts_job);
  folder.write("job.textproto", distill_job);
  folder.succeed(
      "train teacher.textproto --out teacher --set model.num_layers=6 --set model.mlp_width=20 --set "
      "model.moe.dense_layers=[1,3,5] --steps 1");
  const std::string command = "distill job.textproto --steps 1 --set student_init.layers=[0,2,4] --set ";
  folder.succeed(command + "student_init.num_layers=3 --out usual");
  folder.succeed(command + "student_init.num_layers=3 --out listed --set objective.routers.layers=[0,2,4]");
  EXPECT_GT(folder.metrics("usual").at(0)["router_loss"], 0);
  EXPECT_EQ(folder.metrics("usual"), folder.metrics("listed"));
}

TEST(EndToEnd, RoutersAndBlocksAreMatched) {
  const RunFolder folder("matches");
  folder.write("teacher.textproto", std::string(teacher_of_experts_job) + in_float64);
  folder.write("job.textproto", std::string(distill_job) + in_float64);
  ASSERT_EQ(folder.limbeck("train teacher.textproto --out teacher").code, 0);
  const auto run = [&](const std::string& arguments, int ranks = 1) {
    const Outcome outcome = folder.limbeck("distill job.textproto " + arguments, ranks);
    EXPECT_EQ(outcome.code, 0) << outcome.output;
  };
  run("--out one --steps 1");
  const json line = folder.metrics("one").at(0);

  const launch::ModelSource source = launch::open_model(folder.path() / "teacher");
  WrittenOut teacher(source.config, read_weights(source.config, *source.reader));
  nn::ModelConfig config = source.config;
  config.num_layers = 2;
  Weights weights = read_weights(config, *source.reader);
  for (auto& [name, weight] : weights)
    if (name.starts_with("layers.1.")) weight = teacher.weights().at("layers.2." + name.substr(9));
  WrittenOut student(config, weights);
  data::Loader loader(byte_token_file(folder, 0, 5),
                      {.sequence_length = 24, .vocabulary = num_byte_tokens, .seed = 5, .held_out = 0.35});
  const data::TokenBatch samples = loader.fetch(0, 5);
  core::Tape off(core::Tape::Mode::Off);
  const WrittenOut::Pass ours = student.run(off, samples), theirs = teacher.run(off, samples);
  const auto [router, router_length] = router_loss(ours, student, theirs, teacher, samples);
  expect_near(line["router_loss"], router, "router_loss");
  expect_near(line["grad_norm_router"], router_length, "grad_norm_router");

  // The lengths of the gradients of 0.3 CE and 0.7 KL with respect to the student's logits.
  double of_ce = 0, of_kl = 0;
  const auto row = [&](const core::Tensor& logits, std::size_t t) {
    const double* z = logits.data<double>() + t * 264;
    return softmax({z, z + num_byte_tokens});
  };
  for (std::size_t t = 0; t < samples.tokens.size(); ++t) {
    if (samples.targets[t] < 0) continue;
    const std::vector<double> q = row(ours.logits.value, t), p = row(theirs.logits.value, t);
    for (std::size_t v = 0; v < q.size(); ++v) {
      of_ce += std::pow(0.3 * (q[v] - (static_cast<int>(v) == samples.targets[t] ? 1 : 0)), 2);
      of_kl += std::pow(0.7 * (q[v] - p[v]), 2);
    }
  }
  const auto targets = static_cast<double>(samples.num_targets());
  expect_near(line["grad_norm_ce"], std::sqrt(of_ce) / targets, "grad_norm_ce");
  expect_near(line["grad_norm_divergence"], std::sqrt(of_kl) / targets, "grad_norm_divergence");

  // Each layer is held to the one that it was. The whole of the teacher has nothing to learn from it.
  EXPECT_GT(line["attention_loss"], 0);
  const auto listed = [](const char* layers) {
    return fmt::format(
        "--steps 1 --set objective.attention.layers={0} --set objective.feed_forward.layers={0} --set "
        "objective.routers.layers={0}",
        layers);
  };
  run("--out listed " + listed("[0,2]"));
  run("--out others " + listed("[1,3]"));
  for (const char* name : {"attention_loss", "feed_forward_loss", "router_loss", "loss"}) {
    EXPECT_EQ(folder.metrics("listed").at(0)[name], line[name]) << name;
    EXPECT_NE(folder.metrics("others").at(0)[name], line[name]) << name;
  }
  run("--out same --steps 1 --set student_init.choice=EVENLY_SPACED --set student_init.num_layers=0 --set "
      "student_init.layers=[]");
  const json same = folder.metrics("same").at(0);
  for (const char* name : {"attention_loss", "feed_forward_loss", "router_loss", "grad_norm_attention",
                           "grad_norm_divergence", "grad_norm_router"})
    EXPECT_NEAR(same[name].get<double>(), 0, 1e-12) << name;
  EXPECT_NEAR(same["grad_norm_feed_forward"].get<double>(), 0, 1e-6);  // the root of 1 - cosine^2
  EXPECT_GT(same["grad_norm_ce"], 0);

  // Under every layout, and resumed, the same.
  run("--out whole");
  run("--out one --resume");
  const std::vector<json> whole = folder.metrics("whole"), resumed = folder.metrics("one");
  ASSERT_EQ(resumed.size(), 3U);
  const auto fields = {"loss",
                       "attention_loss",
                       "feed_forward_loss",
                       "router_loss",
                       "grad_norm_ce",
                       "grad_norm_divergence",
                       "grad_norm_attention",
                       "grad_norm_feed_forward",
                       "grad_norm_router",
                       "grad_norm_balance",
                       "grad_norm_z"};
  for (std::size_t i = 0; i < 3; ++i)
    for (const char* name : fields) EXPECT_EQ(whole[i][name], resumed[i][name]) << name << " " << i;
  for (const std::string layout :
       {"dp2 --set batch.micro_batches=2", "tp2 --set parallel.sequence_parallel=true", "ep2", "cp2"}) {
    SCOPED_TRACE(layout);
    run(fmt::format("--out {} --set parallel.layout={} --set train.recompute=true", layout.substr(0, 3), layout), 2);
    const std::vector<json> lines = folder.metrics(layout.substr(0, 3));
    for (std::size_t i = 0; i < 3; ++i)
      for (const char* name : fields) expect_near(lines[i][name], whole[i][name], name);
  }

  const auto refused = [&](const std::string& sets) {
    return folder.limbeck("distill job.textproto --out x " + sets).output;
  };
  EXPECT_THAT(refused("--set objective.routers.layers=[0,4]"),
              HasSubstr("objective.routers.layers has 4, expected -1 or a layer of the teacher's 4, from 0"));
  EXPECT_THAT(refused("--set teacher.cache=kept"), HasSubstr("objective.routers is given with teacher.cache"));
  folder.write("other.textproto", std::string(R"(teacher { source: "teacher" }
      model { vocabulary: 264 width: 12 num_layers: 2 num_heads: 2 mlp_width: 20 max_positions: 64 }
      data { text: "text" sequence_length: 24 held_out_fraction: 0.35 } batch { sequences_per_step: 5 } train { steps: 1 })"));
  const auto of_other = [&](const std::string& sets) {
    return folder.limbeck("distill other.textproto --out x " + sets).output;
  };
  EXPECT_THAT(of_other("--set objective.routers.weight=1"), HasSubstr("the student has 0 experts, the teacher 4"));
  for (const std::string block : {"attention", "feed_forward"})
    EXPECT_THAT(of_other("--set objective." + block + ".weight=1"),
                HasSubstr("objective." + block + ".weight is 1, expected 0: the student is 12 wide, the teacher 16"));
}

}  // namespace
}  // namespace limbeck::testing
