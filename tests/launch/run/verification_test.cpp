#include "launch/run/verification.h"

#include <gmock/gmock.h>

#include <cmath>
#include <limits>

#include "launch/run/run_config.h"
#include "launch/run/verified_layouts.h"
#include "tests/support/run_limbeck.h"
#include "tests/support/thread_ranks.h"

namespace limbeck {
namespace {

using core::DType;
using core::Tensor;

/// Six heads in three groups, sequences and experts that nothing divides evenly, routing by few.
constexpr std::array odd = {"model.num_heads=6",         "model.num_kv_heads=3",       "model.head_width=8",
                            "model.mlp_width=45",        "model.moe.dense_layers=[0]", "data.sequence_length=47",
                            "batch.sequences_per_step=5"};

class VerificationTest : public ::testing::Test {
 protected:
  VerificationTest() : folder_("verification"), log_(launch::make_log(1)) {}

  launch::RunConfig config(DType precision, const std::string& item = "dp1",
                           std::span<const char* const> more = {}) const {
    std::vector<std::string> sets = {"data.text=" + (folder_.path() / "text").string(),
                                     "data.cache_dir=" + (folder_.path() / "tokens").string(), "train.device=CPU"};
    sets.insert(sets.end(), more.begin(), more.end());
    return launch::exact(launch::load_given_config({folder_.path() / "tiny.textproto"},
                                                   launch::settings_of(sets, launch::parse_layout_item(item))),
                         precision);
  }
  launch::LayoutDifferences differences(const launch::VerifiedSteps& reference, const launch::RunConfig& config) const {
    launch::LayoutDifferences result;
    testing::run_ranks(launch::ranks_of(config), [&](testing::RankWorld& world) {
      const auto found = launch::differences_from(reference, world.comm, config, log_);
      if (world.rank == 0) result = *found;
    });
    return result;
  }

  testing::RunFolder folder_;
  launch::Log log_;
};

TEST_F(VerificationTest, LayoutsGiveTheNumbersOfOneRankInFloat64) {
  const launch::VerifiedSteps reference = launch::steps_on_one_rank(config(DType::F64, "dp1", odd), 3, log_);
  EXPECT_FALSE(reference.replays);
  for (const char* item : {"dp3", "tp2ep2+parallel.sequence_parallel=true", "ep2etp2+batch.micro_batches=2",
                           "tp3+parallel.sequence_parallel=true+parallel.tensor_chunks=4+train.recompute=true",
                           "dp2ep2+parallel.expert_replicas=3+batch.micro_batches=2+train.recompute=true",
                           "ep4+parallel.expert_chunks=3+parallel.expert_replicas=2+parallel.expert_exchange=TWO_LEVEL",
                           "ep2+parallel.deal_experts_every_steps=1+parallel.expert_replicas=2",
                           "dp2ep2+parallel.deal_experts_every_steps=1+parallel.shard=OPTIMIZER+batch.micro_batches=2",
                           "cp3+parallel.shard=PARAMETERS", "dp2+parallel.shard=GRADIENTS+batch.micro_batches=2",
                           "pp2dp2+batch.micro_batches=3+parallel.shard=OPTIMIZER"}) {
    const launch::LayoutDifferences found = differences(reference, config(DType::F64, item, odd));
    EXPECT_TRUE(found.within(1e-11)) << item << ' ' << found.loss << ' ' << found.gradient.difference << ' '
                                     << found.gradient.parameter << ' ' << found.weight.difference;
    EXPECT_FALSE(found.first_layer(1e-11)) << item;
    EXPECT_EQ(found.hidden.size(), 2U);
  }
}

/// Over ranks of which each has one or two, two or three, or one or none, and that step by Muon.
TEST_F(VerificationTest, ExpertsThatRanksDoNotDivideGiveTheNumbersOfOneRank) {
  const std::vector<std::pair<const char*, std::vector<const char*>>> models = {
      {"model.moe.num_experts=6",
       {"ep4+parallel.expert_chunks=2+parallel.expert_replicas=2+parallel.expert_exchange=TWO_LEVEL",
        "dp2ep4+parallel.shard=OPTIMIZER+batch.micro_batches=2", "tp2ep4+parallel.sequence_parallel=true",
        "dp2ep4+parallel.deal_experts_every_steps=1+parallel.shard=GRADIENTS+parallel.expert_replicas=2"}},
      {"model.moe.num_experts=5",
       {"ep2+train.recompute=true", "dp2ep2+parallel.shard=PARAMETERS",
        "dp2ep2+parallel.deal_experts_every_steps=1+parallel.shard=PARAMETERS+train.recompute=true"}},
      {"model.moe.num_experts=3",
       {"ep4+parallel.expert_exchange=TWO_LEVEL+parallel.expert_replicas=1", "ep4etp2+parallel.expert_chunks=2",
        "dp2ep4+parallel.shard=GRADIENTS+batch.micro_batches=2",
        "dp2ep4+parallel.deal_experts_every_steps=1+parallel.shard=PARAMETERS"}}};
  for (const auto& [experts, items] : models) {
    std::vector<const char*> sets(odd.begin(), odd.end());
    sets.insert(sets.end(), {experts, "optimizer.kind=MUON"});
    const launch::VerifiedSteps reference = launch::steps_on_one_rank(config(DType::F64, "dp1", sets), 2, log_);
    for (const char* item : items) {
      const launch::LayoutDifferences found = differences(reference, config(DType::F64, item, sets));
      EXPECT_TRUE(found.within(1e-11)) << experts << ' ' << item << ' ' << found.loss << ' '
                                       << found.gradient.difference << ' ' << found.gradient.parameter << ' '
                                       << found.weight.difference << ' ' << found.weight.parameter;
    }
  }
}

TEST_F(VerificationTest, StagesGiveTheNumbersOfOneRank) {
  for (const DType precision : {DType::F64, DType::F32}) {
    std::vector<const char*> deep(odd.begin(), odd.end());
    deep.insert(deep.end(), {"model.num_layers=5", "model.tied_head=true", "model.vocabulary=300",
                             "moe_loss.z_weight=0.01", "model.moe.scores=SIGMOID", "model.moe.selection_bias=true"});
    const launch::VerifiedSteps reference = launch::steps_on_one_rank(config(precision, "dp1", deep), 3, log_);
    for (const char* item :
         {"pp2", "pp4+batch.micro_batches=3", "pp2tp2+parallel.sequence_parallel=true+batch.micro_batches=2",
          "pp2ep2+parallel.schedule=ZERO_BUBBLE+batch.micro_batches=4+parallel.shard=OPTIMIZER+parallel.expert_"
          "replicas=2",
          "pp2+parallel.schedule=INTERLEAVED+parallel.chunks=2+batch.micro_batches=4+train.recompute=true",
          "pp2+parallel.stages=[0,5]", "pp2cp2", "pp2dp2+parallel.shard=GRADIENTS+batch.micro_batches=3",
          "pp2dp2+parallel.shard=PARAMETERS+batch.micro_batches=3+train.recompute=true",
          "pp2dp4+parallel.shard=OPTIMIZER+parallel.shard_ranks=2",
          "pp2dp2+parallel.shard=GRADIENTS+parallel.shard_ranks=4",
          "pp2dp2+parallel.shard=PARAMETERS+parallel.schedule=ZERO_BUBBLE+batch.micro_batches=4+parallel.chunks=2"}) {
      const launch::LayoutDifferences found = differences(reference, config(precision, item, deep));
      EXPECT_TRUE(found.within(launch::usual_tolerance(precision)))
          << item << ' ' << found.loss << ' ' << found.gradient_norm << ' ' << found.gradient.difference << ' '
          << found.gradient.parameter << ' ' << found.weight.difference << ' ' << found.weight.parameter;
      EXPECT_FALSE(found.first_layer(1e-4)) << item;
    }
  }
}

TEST_F(VerificationTest, LayoutsGiveTheNumbersOfOneRankInFloat32UnderItsRouting) {
  const launch::VerifiedSteps reference = launch::steps_on_one_rank(config(DType::F32, "dp1", odd), 3, log_);
  EXPECT_TRUE(reference.replays);
  for (const char* item : {"dp2+train.recompute=true", "tp3", "tp2etp2", "cp2ep2", "dp3+parallel.shard=OPTIMIZER",
                           "pp2+batch.micro_batches=2"}) {
    const launch::LayoutDifferences found = differences(reference, config(DType::F32, item, odd));
    EXPECT_TRUE(found.within(1e-5)) << item << ' ' << found.loss << ' ' << found.gradient.difference << ' '
                                    << found.gradient.parameter << ' ' << found.weight.difference;
  }
}

/// What is kept of one rank is what it gave: its own steps differ by nothing.
TEST_F(VerificationTest, OneRankIsItself) {
  const launch::RunConfig one = config(DType::F32);
  const launch::VerifiedSteps reference = launch::steps_on_one_rank(one, 2, log_);
  ASSERT_EQ(reference.steps.size(), 2U);
  EXPECT_EQ(reference.num_tokens, 4 * 48);
  EXPECT_NE(reference.steps[0].loss, reference.steps[1].loss);
  const launch::LayoutDifferences found = differences(reference, one);
  EXPECT_TRUE(found.within(0));
  EXPECT_EQ(found.gradient.parameter, "");
  EXPECT_EQ(found.num_flips, 0);
}

TEST_F(VerificationTest, AChangedNumberIsNamedWhereItIs) {
  const launch::RunConfig two = config(DType::F64, "tp2");
  launch::VerifiedSteps reference = launch::steps_on_one_rank(two, 2, log_);
  const auto change = [](Tensor& x) {
    x = x.clone();
    x.mutable_host<double>()[x.numel() - 1] += 1e-3;
  };
  launch::VerifiedSteps other = reference;
  change(other.steps[1].gradients.at("layers.1.attention.q.weight"));
  launch::LayoutDifferences found = differences(other, two);
  EXPECT_FALSE(found.within(1e-11));
  EXPECT_EQ(found.gradient.parameter, "layers.1.attention.q.weight");
  EXPECT_EQ(found.gradient.step, 2);
  EXPECT_LE(found.first_gradient.difference, 1e-11);
  EXPECT_LE(found.loss, 1e-11);

  other = reference;
  change(other.end.at("layers.0.moe.experts.down"));
  found = differences(other, two);
  EXPECT_EQ(found.weight.parameter, "layers.0.moe.experts.down");
  EXPECT_EQ(found.weight.step, 2);
  EXPECT_LE(found.gradient.difference, 1e-11);

  other = reference;
  change(other.start.at("layers.1.moe.router.weight"));
  found = differences(other, two);
  EXPECT_EQ(found.first_layer(1e-11), 1);
  EXPECT_LE(found.hidden[0], 1e-11);

  other = reference;
  other.steps[0].gradients.at("norm.weight") = Tensor::zeros(core::Memory::cpu(1), DType::F64, {33});
  EXPECT_THROW(differences(other, two), core::Error);
}

/// As if a rank more had been needed to hold all experts.
TEST_F(VerificationTest, APartOfNoRankIsInfinitelyFar) {
  const launch::RunConfig one = config(DType::F64);
  launch::VerifiedSteps reference = launch::steps_on_one_rank(one, 1, log_);
  reference.end["layers.7.moe.experts.up"] = Tensor::zeros(core::Memory::cpu(1), DType::F64, {4, 24, 32});
  reference.start["layers.7.moe.experts.up"] = reference.end["layers.7.moe.experts.up"];
  const launch::LayoutDifferences found = differences(reference, one);
  EXPECT_TRUE(std::isinf(found.weight.difference));
  EXPECT_EQ(found.weight.parameter, "layers.7.moe.experts.up");
}

TEST_F(VerificationTest, ANumberThatIsNotFiniteIsAnError) {
  const launch::RunConfig one = config(DType::F64);
  launch::VerifiedSteps reference = launch::steps_on_one_rank(one, 1, log_);
  Tensor& gradient = reference.steps[0].gradients.at("head.weight");
  gradient = gradient.clone();
  gradient.mutable_host<double>()[0] = std::numeric_limits<double>::quiet_NaN();
  EXPECT_THROW(differences(reference, one), core::Error);  // which the update would have taken
}

TEST_F(VerificationTest, FlipsAreListed) {
  const launch::RunConfig two = config(DType::F32, "tp2");
  launch::VerifiedSteps reference = launch::steps_on_one_rank(two, 1, log_);
  // Another choice in the reference's place, as if a near-tie had flipped: of token 7 in the second layer.
  const auto memory = core::Memory::cpu(1);
  std::vector<std::int64_t> tokens;
  for (std::int64_t t = 0; t < reference.num_tokens; ++t) tokens.push_back(t);
  const Tensor index = Tensor::from<std::int64_t>(memory, {reference.num_tokens}, tokens);
  nn::RoutingLog changed;
  std::string own, other;
  for (const char* layer : {"layers.0.moe", "layers.1.moe"}) {
    std::vector<std::int32_t> chosen = core::host_values<std::int32_t>(*reference.steps[0].routing.find(layer, index));
    if (std::string(layer) == "layers.1.moe") {
      const auto text = [&] {
        return fmt::format("{},{}", std::min(chosen[14], chosen[15]), std::max(chosen[14], chosen[15]));
      };
      own = text();
      chosen[14] = chosen[15] == 0 || chosen[14] == 0 ? (chosen[15] == 3 || chosen[14] == 3 ? 1 : 3) : 0;
      if (chosen[14] == chosen[15]) chosen[14] = 2;
      other = text();
    }
    changed.record(layer, index, Tensor::from<std::int32_t>(memory, {reference.num_tokens, 2}, chosen));
  }
  reference.steps[0].routing = changed;
  const launch::LayoutDifferences found = differences(reference, two);
  ASSERT_EQ(found.num_flips, 1);
  EXPECT_EQ(found.flips, (std::vector<launch::Flip>{{1, 1, 7, other, own}}));
}

TEST(VerifiedLayouts, AnItemIsALayoutAndFields) {
  const launch::LayoutItem item = launch::parse_layout_item("tp2ep2+batch.micro_batches=3+data.text+=more");
  EXPECT_EQ(item.layout, "tp2ep2");
  EXPECT_EQ(item.sets, (std::vector<std::string>{"batch.micro_batches=3", "data.text+=more"}));
  EXPECT_EQ(launch::settings_of({"a.b=1"}, item),
            (std::vector<std::string>{"a.b=1", "parallel.layout=tp2ep2", "batch.micro_batches=3", "data.text+=more"}));
  EXPECT_TRUE(launch::parse_layout_item("dp4").sets.empty());
  for (const char* wrong : {"", "+a.b=1", "xp2", "dp2,tp2"})
    EXPECT_THROW(launch::parse_layout_item(wrong), core::UsageError) << wrong;
}

bool any_item(const launch::LayoutItem& /*item*/) { return true; }

std::vector<std::string> covering(int ranks, std::int64_t experts, const launch::RunConfig& config = {}) {
  nn::ModelConfig model;
  model.num_layers = 4;
  model.moe.num_experts = experts;
  std::vector<std::string> items;
  for (const launch::LayoutItem& item : launch::covering_layouts(ranks, config, model, any_item))
    items.push_back(item.text);
  return items;
}

TEST(VerifiedLayouts, TheCoveringSetHasEveryAxisAloneAndWithEveryOther) {
  const std::vector<std::string> four = covering(4, 4);
  EXPECT_THAT(four, ::testing::IsSupersetOf({"dp4",
                                             "cp4",
                                             "tp4",
                                             "ep4",
                                             "etp4",
                                             "dp2tp2",
                                             "dp2cp2",
                                             "cp2tp2",
                                             "tp2ep2",
                                             "tp2etp2",
                                             "ep2etp2",
                                             "cp2tp2ep2etp2",
                                             "pp4",
                                             "cp2pp2",
                                             "tp2pp2",
                                             "pp2ep2",
                                             "pp2+batch.micro_batches=4+parallel.schedule=ZERO_BUBBLE",
                                             "tp4+parallel.sequence_parallel=true",
                                             "tp2ep2+parallel.sequence_parallel=true",
                                             "cp2tp2ep2etp2+parallel.sequence_parallel=true+parallel.tensor_chunks=2",
                                             "tp4+parallel.tensor_chunks=2",
                                             "dp4+batch.micro_batches=3+parallel.shard=OPTIMIZER",
                                             "dp4+parallel.shard=GRADIENTS+parallel.shard_ranks=2",
                                             "dp4+parallel.shard=PARAMETERS",
                                             "ep4+parallel.expert_exchange=TWO_LEVEL+parallel.expert_chunks=2",
                                             "ep4+parallel.expert_replicas=1+parallel.deal_experts_every_steps=1"}));
  EXPECT_EQ(std::ranges::count_if(four, [](const std::string& i) { return i.ends_with("train.recompute=true"); }), 1);
  EXPECT_THAT(covering(4, 6), ::testing::IsSupersetOf({"ep4", "ep2"}));
  EXPECT_THAT(covering(12, 8), ::testing::IsSupersetOf({"ep12", "ep4"}));
  EXPECT_THAT(covering(16, 8), ::testing::IsSupersetOf({"ep16", "ep8"}));
  launch::RunConfig that_deals;
  that_deals.parallel.deal_experts_every_steps = 1;
  EXPECT_EQ(covering(4, 6, that_deals), covering(4, 6));
  EXPECT_THAT(covering(2, 0),
              ::testing::UnorderedElementsAre(
                  "dp2", "cp2", "tp2", "tp2+parallel.sequence_parallel=true", "pp2",
                  "pp2+batch.micro_batches=4+parallel.schedule=ZERO_BUBBLE",
                  "pp2+batch.micro_batches=4+parallel.schedule=INTERLEAVED+parallel.chunks=2",
                  "dp2+batch.micro_batches=3+parallel.shard=OPTIMIZER", "dp2+parallel.shard=GRADIENTS",
                  "dp2+parallel.shard=PARAMETERS", "tp2+parallel.tensor_chunks=2", "pp2+train.recompute=true"));
  EXPECT_THAT(covering(1, 4),
              ::testing::UnorderedElementsAre("dp1", "dp1+batch.micro_batches=3", "dp1+train.recompute=true"));
  EXPECT_THAT(covering(3, 9), ::testing::Contains("tp3ep3"));
  // Ranks with the same experts are three apart there, neighbours two.
  EXPECT_THAT(covering(6, 9), ::testing::IsSupersetOf({"ep6", "ep3", "pp3"}));
  launch::RunConfig of_neighbours;
  of_neighbours.parallel.shard = launch::Shard::Optimizer;
  of_neighbours.parallel.shard_ranks = 2;
  EXPECT_THAT(covering(6, 9, of_neighbours), ::testing::AllOf(::testing::IsSupersetOf({"ep6", "pp3"}),
                                                              ::testing::Not(::testing::Contains("ep3"))));
  of_neighbours.parallel.shard_ranks = 4;  // no divisor of six, which the run refuses
  EXPECT_THAT(covering(6, 9, of_neighbours), ::testing::Contains("ep3"));
  // Of a config with stages of its own the items are the same, and say nothing of those.
  launch::RunConfig with_stages;
  with_stages.parallel.stages = {1, 1, 1, 1, 0, 0};
  with_stages.parallel.chunks = 3;
  with_stages.parallel.schedule = launch::PipelineKind::Interleaved;
  EXPECT_EQ(covering(2, 0, with_stages), covering(2, 0));
  nn::ModelConfig model;
  model.num_layers = 4;
  for (const launch::LayoutItem& item : launch::covering_layouts(2, with_stages, model, any_item)) {
    ASSERT_GE(item.sets.size(), 3U) << item.text;
    EXPECT_THAT(std::vector(item.sets.begin(), item.sets.begin() + 3),
                ::testing::ElementsAre("parallel.stages=[]", "parallel.chunks=1", "parallel.schedule=ONE_F_ONE_B"));
  }
  launch::RunConfig with_teacher_ranks;
  with_teacher_ranks.parallel.teacher_ranks = 2;
  EXPECT_THAT(covering(4, 0, with_teacher_ranks), ::testing::IsSupersetOf({"tp2", "pp2", "cp2"}));
}

TEST(VerifiedLayouts, AMambaModelIsCutIntoItsHeadsAtMost) {
  nn::ModelConfig model;
  model.num_layers = 4;
  model.mamba.num_heads = 3;
  std::vector<std::string> items;
  for (const launch::LayoutItem& item : launch::covering_layouts(4, {}, model, any_item)) items.push_back(item.text);
  EXPECT_THAT(items, ::testing::AllOf(::testing::IsSupersetOf({"tp2", "tp2+parallel.tensor_chunks=2"}),
                                      ::testing::Not(::testing::Contains("tp4"))));
}

TEST(VerifiedLayouts, TheConfigTakesEveryItemOfTheCoveringSet) {
  const testing::RunFolder folder("covering");
  nn::ModelConfig model;
  model.num_layers = 4;
  model.moe.num_experts = 4;
  const auto items = [&](const std::vector<std::string>& sets) {
    const auto load = [&](const launch::LayoutItem& item) {
      return launch::load_given_config({folder.path() / "tiny.textproto"}, launch::settings_of(sets, item));
    };
    const auto may_be = [&](const launch::LayoutItem& item) {
      try {
        load(item);
        return true;
      } catch (const core::UsageError&) {
        return false;
      }
    };
    std::vector<std::string> texts;
    for (const launch::LayoutItem& item :
         launch::covering_layouts(4, load(launch::parse_layout_item("dp4")), model, may_be)) {
      EXPECT_NO_THROW(load(item)) << item.text;
      texts.push_back(item.text);
    }
    return texts;
  };
  const std::string copied = "+parallel.expert_replicas=1", dealt = "+parallel.deal_experts_every_steps=1",
                    in_runs = "tp4+parallel.tensor_chunks=2", taught = "teacher.source=teacher";
  EXPECT_THAT(items({}), ::testing::IsSupersetOf({"ep4" + copied + dealt, in_runs}));
  EXPECT_THAT(items({"precision.quantised_weights=Q8_0"}), ::testing::Contains("ep4" + dealt));
  EXPECT_THAT(items({"optimizer.offload=true"}), ::testing::Contains("ep4" + copied));
  EXPECT_THAT(items({"moe_loss.balance_scope=GLOBAL_BATCH"}),
              ::testing::IsSupersetOf({"dp4+parallel.shard=OPTIMIZER", "pp2+parallel.schedule=ZERO_BUBBLE"}));
  EXPECT_THAT(items({taught}), ::testing::Contains(in_runs + "+parallel.teacher_layout=dp4"));
  for (const char* alone : {"objective.routers.weight=0.2", "teacher.cache=cache", "parallel.teacher_layout=pp2"})
    EXPECT_THAT(items({taught, alone}), ::testing::Contains(in_runs)) << alone;
  EXPECT_THAT(items({taught, "parallel.teacher_ranks=2"}), ::testing::Contains("tp2+parallel.tensor_chunks=2"));
}

TEST(VerifiedLayouts, RanksAreTheProductOfTheAxesAndTheTeachers) {
  launch::RunConfig config;
  config.parallel.layout = "tp2ep2";
  EXPECT_EQ(launch::ranks_of(config), 4);
  config.parallel.teacher_ranks = 2;
  EXPECT_EQ(launch::ranks_of(config), 6);
}

}  // namespace
}  // namespace limbeck
