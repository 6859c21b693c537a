// `limbeck verify` sees a collective that is wrong, whichever file of parallel/axes makes it, between stages, and from
// a teacher on ranks or in a layout of its own, and names a parameter that it spoils, but where it is of the loss
// alone. A rank that comes late changes nothing.
#include <gmock/gmock.h>

#include <array>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "launch/run/run_config.h"
#include "launch/run/verification.h"
#include "launch/run/verified_layouts.h"
#include "tests/support/faulty_comm.h"
#include "tests/support/made_weights.h"
#include "tests/support/run_limbeck.h"
#include "tests/support/thread_ranks.h"

namespace limbeck {
namespace {

using core::DType;
using testing::Fault;
using ::testing::HasSubstr;
using ::testing::Not;
using Op = Fault::Op;
using Kind = Fault::Kind;

class VerificationFaults : public ::testing::Test {
 protected:
  VerificationFaults() : folder_("verification_faults") {}

  launch::RunConfig config(const std::string& item) const {
    std::vector<std::string> sets = {"data.text=" + (folder_.path() / "text").string(),
                                     "data.cache_dir=" + (folder_.path() / "tokens").string(), "train.device=CPU",
                                     "model.vocabulary=260"};  // so that parts are of equal sizes
    sets.insert(sets.end(), model_.begin(), model_.end());
    return launch::exact(launch::load_given_config({folder_.path() / "tiny.textproto"},
                                                   launch::settings_of(sets, launch::parse_layout_item(item))),
                         DType::F64);
  }

  /// Of four ranks, by `num_steps_`; `ranks_a_node` as ThreadWorld takes it.
  launch::LayoutDifferences differences(const std::string& item, const Fault& fault, int ranks_a_node = 0) {
    const launch::RunConfig of_layout = config(item);
    const launch::Log log = launch::make_log(1);
    if (reference_.steps.empty()) reference_ = launch::steps_on_one_rank(of_layout, num_steps_, log);
    launch::LayoutDifferences result;
    testing::run_ranks(
        4,
        [&](testing::RankWorld& world) {
          const auto faulty = std::make_shared<testing::FaultyComm>(world.comm, world.comm, fault);
          const auto found = launch::differences_from(reference_, faulty, of_layout, log);
          if (world.rank == 0) result = *found;
        },
        std::chrono::seconds(60), ranks_a_node);
    return result;
  }

  static std::string described(const std::string& item, const Fault& fault) {
    return fmt::format("{}: group {}, operation {}, fault {}", item, fault.group, static_cast<int>(fault.op),
                       static_cast<int>(fault.kind));
  }

  /// That it fails, and by a gradient of that name: in the last step, where a test makes more than one to see it there.
  void expect_caught(const std::string& item, const Fault& fault, const ::testing::Matcher<std::string>& name,
                     int ranks_a_node = 0) {
    SCOPED_TRACE(described(item, fault));
    const launch::LayoutDifferences found = differences(item, fault, ranks_a_node);
    EXPECT_FALSE(found.within(1e-6));
    EXPECT_GT(found.gradient.difference, 1e-6);
    EXPECT_THAT(found.gradient.parameter, name);
    EXPECT_TRUE(reference_.start.contains(found.gradient.parameter));
    EXPECT_EQ(found.gradient.step, num_steps_);
  }

  void expect_sound(const std::string& item, const Fault& fault, int ranks_a_node = 0) {
    SCOPED_TRACE(described(item, fault));
    const launch::LayoutDifferences found = differences(item, fault, ranks_a_node);
    EXPECT_TRUE(found.within(1e-11)) << found.gradient.difference << " of " << found.gradient.parameter;
  }

  /// A dense teacher, as wide and deep as the student, which the student is held to.
  void make_teacher() {
    const std::filesystem::path made = folder_.path() / "made", teacher = folder_.path() / "teacher";
    for (const auto& folder : {made, teacher}) std::filesystem::create_directories(folder);
    folder_.write("made/config.json",
                  R"({"architectures": ["LlamaForCausalLM"], "vocab_size": 260, "hidden_size": 32,
                      "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
                      "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 128, "rms_norm_eps": 1e-6,
                      "tie_word_embeddings": true})");
    std::string weights = "model.embed_tokens.weight [260, 32] 0 0.5\nmodel.norm.weight [32] 1 0.3\n";
    for (int layer = 0; layer < 2; ++layer)
      for (const char* tensor : {"input_layernorm.weight [32] 1 0.3", "post_attention_layernorm.weight [32] 1 0.3",
                                 "self_attn.q_proj.weight [32, 32] 0 0.3", "self_attn.k_proj.weight [32, 32] 0 0.3",
                                 "self_attn.v_proj.weight [32, 32] 0 0.3", "self_attn.o_proj.weight [32, 32] 0 0.3",
                                 "mlp.gate_proj.weight [24, 32] 0 0.3", "mlp.up_proj.weight [24, 32] 0 0.3",
                                 "mlp.down_proj.weight [32, 24] 0 0.3"})
        weights += fmt::format("model.layers.{}.{}\n", layer, tensor);
    folder_.write("made/weights.txt", weights);
    testing::write_made_model(made, teacher, 1);
    model_ = {"teacher.source=" + teacher.string(), "objective.hidden_states.weight=0.5",
              "objective.hidden_states.distance=SQUARED_ERROR"};
  }

  testing::RunFolder folder_;
  std::vector<std::string> model_;  // settings of all items
  std::int64_t num_steps_ = 1;
  launch::VerifiedSteps reference_;
};

constexpr std::array all_kinds = {Kind::Scaled, Kind::Dropped, Kind::WrongGroup, Kind::Late};
constexpr std::array of_right_groups = {Kind::Scaled, Kind::Dropped, Kind::Late};
const ::testing::Matcher<std::string> of_experts = HasSubstr(".experts."), any = ::testing::_;

TEST_F(VerificationFaults, NoneIsFoundWhereThereIsNone) {
  for (const char* item : {"tp2ep2", "tp2+parallel.sequence_parallel=true"}) expect_sound(item, {});
}

TEST_F(VerificationFaults, ARankThatComesLateChangesNothing) {
  num_steps_ = 2;
  for (const char* item : {"tp2ep2+parallel.sequence_parallel=true+parallel.shard=OPTIMIZER",
                           "cp2+parallel.shard=PARAMETERS", "pp2+parallel.stages=[1,1]+parallel.shard=GRADIENTS",
                           "ep2+parallel.deal_experts_every_steps=1+parallel.expert_replicas=2"})
    expect_sound(item, {.kind = Kind::Slow});
}

// parallel/axes/gradient_sync.cpp, gradient_groups.cpp: the parameters of the very group, and no others.
TEST_F(VerificationFaults, SumsOfGradientsAreSeenByName) {
  for (const Kind kind : all_kinds) {
    expect_caught("tp2ep2", {"dp gradients", Op::AllReduce, kind}, Not(of_experts));
    expect_caught("tp2ep2", {"edp gradients", Op::AllReduce, kind}, of_experts);
    expect_caught("tp2+parallel.sequence_parallel=true", {"dp tp gradients", Op::AllReduce, kind},
                  ::testing::AnyOf(HasSubstr("norm"), HasSubstr("router")));
  }
}

/// Replicas that part are seen although the first one is right.
TEST_F(VerificationFaults, EveryReplicaCounts) {
  expect_caught("dp4", {"dp gradients", Op::AllReduce, Kind::OfOneRank}, Not(of_experts));
  expect_caught("dp4", {"edp gradients", Op::AllReduce, Kind::OfOneRank}, of_experts);
}

/// Of dealt gradients each sharer has its share, which those that have the same one sum.
TEST_F(VerificationFaults, SumsOfDealtGradientsAreSeenByName) {
  const std::string sharers = "tp2ep2+parallel.shard=GRADIENTS",
                    twins = "dp4+parallel.shard=GRADIENTS+parallel.shard_ranks=2";
  for (const Kind kind : all_kinds) {
    expect_caught(sharers, {"dp gradients sharers", Op::ReduceScatter, kind}, Not(of_experts));
    expect_caught(sharers, {"edp gradients sharers", Op::ReduceScatter, kind}, of_experts);
    expect_caught(twins, {"dp gradients twins", Op::AllReduce, kind}, Not(of_experts));
  }
  expect_caught(twins, {"edp gradients twins", Op::AllReduce, Kind::Scaled}, of_experts);
  expect_caught("tp2+parallel.sequence_parallel=true+parallel.shard=GRADIENTS",
                {"dp tp gradients sharers", Op::ReduceScatter, Kind::Scaled},
                ::testing::AnyOf(HasSubstr("norm"), HasSubstr("router")));
}

/// What both ends of a pipeline have, and it alone.
TEST_F(VerificationFaults, SumsOverTheEndsOfAPipelineAreSeenByName) {
  model_ = {"model.tied_head=true"};
  const std::string stages = "pp2+parallel.stages=[1,1]";
  for (const Kind kind : all_kinds) expect_caught(stages, {"pp gradients", Op::AllReduce, kind}, HasSubstr("embed"));
  expect_caught(stages + "+parallel.shard=GRADIENTS", {"pp gradients sharers", Op::ReduceScatter, Kind::Scaled},
                HasSubstr("embed"));
}

// parallel/axes/shared_values.cpp, value_parts.cpp, layer_values.cpp: of the last the experts' alone, which are all of
// layers. Groups of others are those of the gradients.
TEST_F(VerificationFaults, ValuesOfSharersAreSeen) {
  for (const Kind kind : of_right_groups)
    for (const auto& [item, group] : {std::pair("tp2ep2+parallel.shard=OPTIMIZER", "dp gradients sharers"),
                                      {"tp2ep2+parallel.shard=OPTIMIZER", "edp gradients sharers"},
                                      {"tp2ep2+parallel.shard=PARAMETERS", "edp gradients sharers"}})
      expect_caught(item, {group, Op::AllGather, kind}, any);
}

// parallel/axes/communicators.cpp
TEST_F(VerificationFaults, ExchangesOfATensorGroupAreSeen) {
  const std::string whole = "tp2ep2", divided = "tp2ep2+parallel.sequence_parallel=true";
  for (const Kind kind : all_kinds) {
    expect_caught(whole, {"tp", Op::AllReduce, kind}, any);
    expect_caught(whole, {"tp", Op::AllGather, kind}, any);
    expect_caught(divided, {"tp", Op::AllGather, kind}, any);
    expect_caught(divided, {"tp", Op::ReduceScatter, kind}, any);
  }
}

/// Keys and values that go round, and the experts' counts of whole sequences.
TEST_F(VerificationFaults, ExchangesOfCutSequencesAreSeen) {
  for (const Kind kind : of_right_groups) {
    expect_caught("cp2", {"cp", Op::AllToAll, kind}, any);
    expect_caught("cp2", {"cp", Op::AllReduce, kind}, any);
  }
  // Of ranks with the same sequences, for those of other sequences may have other documents.
  expect_caught("cp2tp2", {"cp", Op::None, Kind::WrongGroup}, any);
}

// core/ops/sequence_runs.cpp, state_scan.cpp: what runs of sequences leave to the next, a filter's last tokens
// [R (K - 1),C] and a scan's states [R,H,P N + 1], and their gradients.
TEST_F(VerificationFaults, WhatRunsOfSequencesLeaveIsSeen) {
  model_ = {"model.mamba.num_heads=4", "model.mamba.head_width=16", "model.mamba.state_width=8",
            "model.mamba.attention_layers=[1]"};
  expect_sound("cp2", {.kind = Kind::Slow});
  for (const Kind kind : of_right_groups)
    for (const int dimensions : {2, 3}) expect_caught("cp2", {"cp", Op::AllGather, kind, dimensions}, any);
}

/// The experts' counts of a batch, by which the router is balanced; and the sums of the loss, which no gradient has.
/// What balance is made of are shares of the tokens, so that all sums times one number are the loss' alone.
TEST_F(VerificationFaults, SumsOverTheBatchAreSeen) {
  model_ = {"moe_loss.balance_scope=GLOBAL_BATCH"};
  for (const auto& [item, group] : {std::pair{"dp2tp2", "dp"}, std::pair{"cp2", "data"}})
    for (const Kind kind : of_right_groups) {
      const Fault fault{group, Op::AllReduce, kind};
      if (kind == Kind::Scaled)
        EXPECT_GT(differences(item, fault).loss, 1e-6) << described(item, fault);
      else
        expect_caught(item, fault, any);
    }
}

/// Streams to the next stage and gradients to the one before, of which the latter spoil what lies there.
TEST_F(VerificationFaults, ExchangesBetweenStagesAreSeen) {
  const std::string stages = "pp2+parallel.stages=[1,1]";
  for (const Kind kind : all_kinds) {
    expect_caught(stages, {"pp streams 0", Op::Send, kind}, any);
    expect_caught(stages, {"pp gradients 1", Op::Send, kind}, Not(HasSubstr("head")));
  }
}

/// They are of the loss alone, for gradients are summed by other groups. All ranks of a stage have its sums, so that a
/// group with another one of them gives what the right one does.
TEST_F(VerificationFaults, SumsOverStagesAreSeenInTheLoss) {
  for (const Kind kind : of_right_groups) {
    const Fault fault{"pp", Op::AllReduce, kind};
    SCOPED_TRACE(described("pp2", fault));
    const launch::LayoutDifferences found = differences("pp2+parallel.stages=[1,1]", fault);
    EXPECT_GT(found.loss, 1e-6);
    EXPECT_FALSE(found.within(1e-6));
    EXPECT_LE(found.gradient.difference, 1e-11);
  }
}

/// What the last stage tells others of its teacher, and what a teacher on ranks of its own, or in a layout of its own
/// over the same (launch/run/relaid_teacher.cpp), tells the student's: by all ranks, of which there is one group.
TEST_F(VerificationFaults, WhatTeachersTellIsSeen) {
  make_teacher();
  const std::string stages = "pp2+parallel.stages=[1,1]", apart = "dp2+parallel.teacher_ranks=2",
                    relaid = "dp4+batch.micro_batches=2+parallel.teacher_layout=tp2";  // so that each gives
  for (const std::string& item : {stages, apart, relaid}) expect_sound(item, {.kind = Kind::Slow});
  for (const Kind kind : all_kinds) expect_caught(stages, {"pp taught", Op::Send, kind}, Not(HasSubstr("head")));
  for (const Kind kind : of_right_groups) {
    expect_caught(apart, {"world", Op::Send, kind}, any);
    expect_caught(relaid, {"teacher", Op::AllToAll, kind}, any);
  }
}

// parallel/axes/expert_comm.cpp
TEST_F(VerificationFaults, ExchangesOfExpertsRowsAreSeen) {
  for (const Kind kind : all_kinds)
    for (const auto& [item, group] : {std::pair("ep2", "experts"), {"tp2ep2", "experts"}, {"etp2", "etp"}})
      expect_caught(item, {group, Op::AllToAll, kind}, any);
}

// Tokens that go by way of another rank of their node, of which there are two, or three and one.
TEST_F(VerificationFaults, NoneIsFoundWhereTokensCrossOnceANode) {
  num_steps_ = 2;  // in the second experts are copied
  for (const char* item : {"ep4", "ep2etp2", "etp4", "tp2ep4+parallel.sequence_parallel=true",
                           "ep4+train.recompute=true+batch.micro_batches=2", "ep4+parallel.expert_replicas=2"})
    for (const int a_node : {2, 3}) expect_sound(item, {}, a_node);
}

TEST_F(VerificationFaults, ExchangesInsideANodeAreSeen) {
  for (const Kind kind : of_right_groups)
    expect_caught("ep4", {"experts inside", Op::AllToAll, kind}, any, /*ranks_a_node=*/2);
}

// parallel/axes/replica_comm.cpp: stacks of matrices, among the rows of tokens that go by the same group, which is
// another for both. Which experts are copied follows from the first step.
TEST_F(VerificationFaults, CopiesOfExpertsAreSeen) {
  num_steps_ = 2;
  for (const Kind kind : of_right_groups)
    expect_caught("ep2+parallel.expert_replicas=2", {"experts", Op::AllToAll, kind, /*dimensions=*/3}, any);
}

// parallel/axes/expert_moves.cpp: experts that change places behind the first step, of so many that they do.
TEST_F(VerificationFaults, ExpertsThatAreDealtAnewAreSeen) {
  num_steps_ = 2;
  model_ = {"model.moe.num_experts=8", "model.num_layers=4"};
  for (const Kind kind : all_kinds)
    expect_caught("ep2+parallel.deal_experts_every_steps=1", {"experts moves", Op::AllToAll, kind}, any);
}

// parallel/axes/mesh.cpp
TEST_F(VerificationFaults, GroupsOfOtherRanksAreSeen) {
  for (const char* group : {"dp", "edp"}) expect_caught("tp2ep2", {group, Op::None, Kind::WrongGroup}, any);
}

}  // namespace
}  // namespace limbeck
