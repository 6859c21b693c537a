// What a layer of experts in chunks of tokens must be on any world (tests/parallel/comm/comm_cases.h): that of one rank
// which has all tokens and all experts, in float64.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include <fmt/format.h>

#include "core/nn/moe.h"
#include "core/parameter_set.h"
#include "core/recompute.h"
#include "parallel/axes/communicators.h"
#include "parallel/axes/expert_comm.h"
#include "parallel/axes/mesh.h"
#include "tests/parallel/comm/comm_cases.h"
#include "tests/support/gradient_check.h"

namespace limbeck::testing {

struct MoeSettings {
  std::int64_t num_experts = 12;
  std::int64_t chunks = 1;
  std::vector<std::vector<std::int64_t>> replicated = {};
  bool recompute = false;
};

/// One layer, its output and its gradients.
class MoeOnRanks {
 public:
  static constexpr std::int64_t width = 5;

  MoeOnRanks(const nn::Communicators& comms, const core::PlacementRule& place, const Tensor& x, const Tensor& dy,
             const MoeSettings& settings)
      : parameters_({.memory = x.memory(), .dtype = DType::F64, .place = place}),
        moe_(nn::make_moe(parameters_, "moe", width,
                          {.num_experts = settings.num_experts,
                           .experts_per_token = 3,
                           .expert_width = 4,
                           .dense_layers = {}})),
        load(Tensor::zeros(x.memory(), DType::I64, {settings.num_experts})) {
    for (core::Parameter* p : parameters_.list()) core::init_normal(*p, 0.6, 5);
    nn::Batch batch;
    batch.tokens = Tensor::zeros(x.memory(), DType::I32, {x.shape()[0]});
    batch.global_index = Tensor::zeros(x.memory(), DType::I64, {x.shape()[0]});
    nn::Pass pass{.batch = batch,
                  .comms = comms,
                  .ropes = {},
                  .attention = {},
                  .replicated = settings.replicated,
                  .expert_chunks = settings.chunks};
    pass.load = [this](std::int64_t, const Tensor& counts, const Tensor&) {
      ASSERT_EQ(counts.numel(), load.numel());
      for (std::int64_t e = 0; e < load.numel(); ++e)
        load.mutable_data<std::int64_t>()[e] += counts.data<std::int64_t>()[e];
    };
    core::Tape tape;
    const core::Var in = core::leaf(x);
    const core::Block layer = [&](core::Tape& on, std::span<const core::Var> inputs) {
      nn::AuxiliaryLosses losses;
      return std::vector{moe_.forward(on, pass, inputs[0], losses)};
    };
    const core::Var out = settings.recompute ? core::recompute(tape, {in}, layer)[0] : layer(tape, std::vector{in})[0];
    y = out.value;
    core::accumulate(out.slot, dy);
    tape.run();
    dx = core::gradient(in.slot, x);
  }

  core::ParameterList parameters() { return parameters_.list(); }
  /// Of the router's weight that of the tokens here, of experts' all of it.
  Tensor gradient_of(const core::Parameter& p) const { return core::gradient(p.slot, p.value); }

 private:
  core::ParameterSet parameters_;
  nn::Moe moe_;

 public:
  Tensor y, dx, load;
};

inline void moe_chunks_case_of(WorldComm& world, std::int64_t num_experts) {
  const auto memory = Memory::cpu(1);
  const int size = world.size();
  // The first of several ranks has no token.
  const auto tokens_of = [&](int rank) { return std::int64_t{size > 1 ? 4 * rank : 7}; };
  core::Slice mine;
  std::int64_t total = 0;
  for (int r = 0; r < size; ++r) {
    if (r == world.rank()) mine = {total, tokens_of(r)};
    total += tokens_of(r);
  }
  const Tensor x = random_tensor(memory, {total, MoeOnRanks::width}, 1),
               dy = random_tensor(memory, {total, MoeOnRanks::width}, 2);
  const Tensor my_x = x.rows(mine.first, mine.count).clone(), my_dy = dy.rows(mine.first, mine.count).clone();
  MoeOnRanks alone(nn::single_communicators(), {}, x, dy, {.num_experts = num_experts});
  const auto near = [](const Tensor& found, const Tensor& expected) {
    ASSERT_EQ(found.shape(), expected.shape());
    for (std::int64_t i = 0; i < found.numel(); ++i)
      ASSERT_NEAR(found.data<double>()[i], expected.data<double>()[i], 1e-12) << i;
  };

  const parallel::Mesh mesh({std::shared_ptr<void>(), &world}, parallel::parse_layout(fmt::format("ep{}", size)));
  const core::PlacementRule place = [&](core::Parameter& p, const core::Cut& cut) { parallel::place(p, mesh, cut); };
  nn::Communicators comms = parallel::make_communicators(mesh);
  parallel::ExpertNodes pairs;
  for (int r = 0; r < size; ++r) pairs.of.push_back(r / 2);
  pairs.here = world.split(world.rank() / 2, world.rank(), "experts inside");
  std::vector<std::int64_t> copied{1, 4, 11};
  std::erase_if(copied, [&](std::int64_t expert) { return expert >= num_experts; });
  for (const bool by_nodes : {false, true})
    for (const std::int64_t chunks : {1, 2, 3, 20})
      for (const bool has_copies : {false, true}) {
        SCOPED_TRACE(fmt::format("{} chunks, nodes {}, copies {}", chunks, by_nodes, has_copies));
        if (size > 1)
          comms.expert =
              parallel::make_expert_comm(mesh.experts_group(), 1, by_nodes ? pairs : parallel::ExpertNodes());
        MoeOnRanks here(comms, place, my_x, my_dy,
                        {.num_experts = num_experts,
                         .chunks = chunks,
                         .replicated = has_copies ? std::vector<std::vector<std::int64_t>>{copied}
                                                  : std::vector<std::vector<std::int64_t>>(),
                         .recompute = chunks == 2});
        near(here.y, alone.y.rows(mine.first, mine.count));
        near(here.dx, alone.dx.rows(mine.first, mine.count));
        world.all_reduce(here.load, Reduce::Sum);
        EXPECT_EQ(core::host_values<std::int64_t>(here.load), core::host_values<std::int64_t>(alone.load));
        const core::ParameterList whole = alone.parameters();
        std::size_t at = 0;
        for (core::Parameter* p : here.parameters()) {
          SCOPED_TRACE(p->name);
          const Tensor expected = alone.gradient_of(*whole[at++]);
          Tensor found = here.gradient_of(*p);
          if (!p->is_stack && size > 1) world.all_reduce(found, Reduce::Sum);
          near(found, expected.rows(p->offset()[0], found.shape()[0]));
        }
      }
}

/// As many experts on each of up to four ranks, and not; fewer than four ranks.
inline void moe_chunks_case(WorldComm& world) {
  for (const std::int64_t num_experts : {12, 5, 3}) {
    SCOPED_TRACE(fmt::format("{} experts", num_experts));
    moe_chunks_case_of(world, num_experts);
  }
}

}  // namespace limbeck::testing
