// Ten steps of every optimizer and precision on the golden models, against PyTorch, NumPy's Muon and bitsandbytes
// (tests/golden/optim/make_steps.py).

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "core/random.h"
#include "launch/run/step.h"
#include "optim/clip.h"
#include "optim/objectives.h"
#include "optim/optimizer.h"
#include "tests/support/golden_model.h"
#include "tests/support/gradient_check.h"
#include "tests/support/teacher_file.h"
#include "tests/support/thread_ranks.h"

namespace limbeck {
namespace {

using core::DType;

struct Case {
  const char* model;
  const char* kind;
  bool bfloat16;
  const char* layout;
  int ranks;
};

class OptimizerSteps : public ::testing::TestWithParam<Case> {};

TEST_P(OptimizerSteps, LossesAreTheReferences) {
  const Case& c = GetParam();
  std::ifstream file(testing::golden_path("optim/steps.json"));
  const auto all = nlohmann::json::parse(file);
  const auto& s = all["settings"];
  const auto expected = std::find_if(all["runs"].begin(), all["runs"].end(), [&](const auto& r) {
    return r["model"] == c.model && r["kind"] == c.kind && r["bfloat16"] == c.bfloat16;
  });
  ASSERT_NE(expected, all["runs"].end());
  const auto losses = (*expected)["losses"].get<std::vector<double>>();
  const auto norms = (*expected)["grad_norms"].get<std::vector<double>>();
  const bool is_double = (*expected)["float64"];
  const DType compute = is_double ? DType::F64 : DType::F32;
  const double tolerance = is_double ? 1e-9 : 1e-4;
  const optim::OptimizerSettings settings{.uses_muon = std::string(c.kind) == "muon",
                                          .adamw = {.beta1 = s["beta1"],
                                                    .beta2 = s["beta2"],
                                                    .eps = s["eps"],
                                                    .weight_decay = s["decay"],
                                                    .eight_bit_from = std::string(c.kind) == "eight_bit" ? 1 : 0},
                                          .muon = {.momentum = s["momentum"], .weight_decay = s["decay"]}};
  testing::run_ranks(c.ranks, [&](testing::RankWorld& world) {
    const testing::GoldenModel golden(c.model);
    launch::Rank rank(world.comm, c.layout, 1);
    nn::Transformer model(golden.config(), rank.sharded(c.bfloat16 ? DType::BF16 : compute));
    model.load(golden.parameters());
    parallel::GradientSync sync(model.parameters(), rank.mesh(), rank.memory(), compute);
    optim::Optimizer optimizer(optim::apply_groups(model.parameters(), {}), settings,
                               [&](const std::string& axis) -> core::Comm& { return rank.mesh().along(axis); });
    const optim::LanguageModelling objective;
    for (std::size_t step = 0; step < losses.size(); ++step) {
      const launch::StepResult result =
          launch::forward_backward(rank, {model, nullptr, objective}, golden.samples(),
                                   {.router = {golden.number("balance_weight"), golden.number("z_weight")}}, sync);
      EXPECT_NEAR(result.loss(), losses[step], tolerance * losses[step]) << "step " << step + 1;
      optim::GradientNorm norm(model.parameters(), rank.world(), s["clip"]);
      EXPECT_NEAR(norm.values().norm, norms[step], 10 * tolerance * norms[step]) << "step " << step + 1;
      optimizer.step(s["rate"], norm.factor());
    }
  });
}

// Its projections are matrices; filters [C,K] and what heads decay, step and let through by are AdamW's, and shrink by
// nothing.
TEST(MuonOfMamba2, StepsOnProjectionsAlone) {
  nn::ModelConfig config = testing::GoldenModel("dense.h5").config();
  config.mamba = {.num_heads = 4, .head_width = 6, .state_width = 5, .num_groups = 2, .attention_layers = {1}};
  const core::MemoryPtr memory = core::Memory::cpu(1);
  nn::Transformer model(config, {.memory = memory, .dtype = DType::F64});
  model.init_random(1);
  std::map<std::string, std::vector<double>> before;
  for (core::Parameter* p : model.parameters()) {
    before[p->name] = testing::values_of(p->value);
    p->slot->grad = testing::random_tensor(memory, p->value.shape(), core::hash_name(p->name));
    p->slot->has_grad = true;
  }
  constexpr double rate = 0.1;
  optim::Optimizer optimizer(optim::apply_groups(model.parameters(), {}),
                             {.uses_muon = true, .adamw = {.weight_decay = 0.5}, .muon = {.weight_decay = 0.5}});
  optimizer.step(rate);
  std::vector<std::string> of_muon, of_adamw;
  for (const auto& [name, entry] : optimizer.state_dict()) {
    const std::string in = "optimizer/layers.0.mamba.", end = "/momentum_buffer";
    if (!name.starts_with(in) || name.ends_with("_sq")) continue;
    const std::string own = name.substr(in.size(), name.rfind('/') - in.size());
    (name.ends_with(end) ? of_muon : of_adamw).push_back(own);
  }
  EXPECT_THAT(of_muon, ::testing::ElementsAre("B.weight", "C.weight", "dt.weight", "o.weight", "x.weight", "z.weight"));
  EXPECT_THAT(of_adamw,
              ::testing::ElementsAre("A_log", "D", "conv_B.bias", "conv_B.weight", "conv_C.bias", "conv_C.weight",
                                     "conv_x.bias", "conv_x.weight", "dt_bias", "norm.weight"));
  for (const std::string& own : of_adamw) {
    const core::Parameter& p = model.parameter("layers.0.mamba." + own);
    const std::vector<double> now = testing::values_of(p.value), gradient = testing::values_of(p.slot->grad);
    for (std::size_t i = 0; i < now.size(); ++i)  // a first step of Adam is the rate
      EXPECT_NEAR(now[i], before[p.name][i] - std::copysign(rate, gradient[i]), 1e-4) << own;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Golden, OptimizerSteps,
    ::testing::Values(Case{"dense.h5", "muon", false, "dp1", 1}, Case{"moe.h5", "muon", false, "dp1", 1},
                      Case{"moe.h5", "muon", false, "ep2", 2}, Case{"moe_idle_expert.h5", "muon", false, "dp2ep2", 4},
                      Case{"dense.h5", "muon", false, "tp2", 2}, Case{"moe.h5", "muon", false, "etp2", 2},
                      Case{"moe.h5", "muon", false, "tp2ep2", 4}, Case{"dense.h5", "eight_bit", false, "dp1", 1},
                      Case{"moe.h5", "eight_bit", false, "dp1", 1}, Case{"moe.h5", "eight_bit", false, "ep2", 2},
                      Case{"dense.h5", "adamw", true, "dp1", 1}, Case{"moe.h5", "adamw", true, "dp1", 1},
                      Case{"moe.h5", "adamw", true, "ep2", 2}, Case{"moe.h5", "adamw", true, "tp2ep2", 4},
                      Case{"dense.h5", "muon", true, "dp1", 1}, Case{"dense.h5", "eight_bit", true, "dp2", 2}),
    [](const auto& test) {
      const Case& c = test.param;
      const std::string model = c.model;
      return model.substr(0, model.find('.')) + "_" + c.kind + (c.bfloat16 ? "_bfloat16_" : "_") + c.layout;
    });

}  // namespace
}  // namespace limbeck
