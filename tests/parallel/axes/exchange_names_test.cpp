// What a rank would say that it waits for: as nobody hangs here, its last operation.
#include <fmt/format.h>
#include <gmock/gmock.h>

#include "core/exchanges_of.h"
#include "parallel/axes/communicators.h"
#include "parallel/axes/expert_comm.h"
#include "parallel/axes/gradient_sync.h"
#include "parallel/axes/shared_values.h"
#include "parallel/comm/engine.h"
#include "tests/support/thread_ranks.h"

namespace limbeck::testing {
namespace {

using core::DType;
using core::ExchangesOf;
using core::Tensor;
using parallel::Mesh;
using parallel::parse_layout;

std::string last_of(RankWorld& world) { return world.comm->engine().whereabouts().at.operation; }

/// "norm.weight" [5] and "layers.0.mlp.up.weight" [40], of which a bucket has 16 and 48 elements.
struct TwoParameters {
  TwoParameters(const Mesh& mesh, const core::MemoryPtr& memory) {
    norm.name = "norm.weight";
    norm.global_shape = {5};
    up.name = "layers.0.mlp.up.weight";
    up.global_shape = {40};
    for (core::Parameter* p : list) {
      parallel::place(*p, mesh, {});
      p->value = Tensor::zeros(memory, DType::F32, p->global_shape);
      p->slot = std::make_shared<core::Slot>();
    }
  }
  core::Parameter norm, up;
  core::ParameterList list = {&up, &norm};
};

TEST(ExchangeNames, OfGradientsAreTheirParameters) {
  run_ranks(2, [](RankWorld& world) {
    const auto memory = core::Memory::cpu(1);
    const Mesh mesh(world.comm, parse_layout("dp2"));
    const TwoParameters parameters(mesh, memory);
    parallel::GradientSync(parameters.list, mesh, memory).finish();
    EXPECT_EQ(last_of(world),
              "all_reduce(sum) of 64 float32 (gradients of norm.weight and 1 more) in group dp gradients");
    parallel::GradientSync(parameters.list, mesh, memory, DType::F32, /*bucket_bytes=*/1).finish();
    EXPECT_EQ(last_of(world),
              "all_reduce(sum) of 48 float32 (gradients of layers.0.mlp.up.weight) in group dp gradients");
  });
}

/// Each rank has 2 or 3 and 20 of their elements, at multiples of 64 bytes.
TEST(ExchangeNames, OfWhatIsDealtAreTheirParameters) {
  run_ranks(2, [](RankWorld& world) {
    const auto memory = core::Memory::cpu(1);
    const Mesh mesh(world.comm, parse_layout("dp2"));
    const TwoParameters parameters(mesh, memory);
    parallel::GradientSync sync(parameters.list, mesh, memory, DType::F32, parallel::GradientSync::default_bucket_bytes,
                                {parallel::Sharded::Gradients});
    sync.finish();
    EXPECT_EQ(last_of(world),
              "reduce_scatter of 48 float32 (gradients of norm.weight and 1 more) in group dp gradients sharers");
    parallel::SharedValues(parameters.list, sync.groups(), /*bytes_at_once=*/1 << 20).gather();
    EXPECT_EQ(last_of(world),
              "all_gather of 192 uint8 (values of layers.0.mlp.up.weight and 1 more) in group dp gradients sharers");
  });
}

TEST(ExchangeNames, OfTokensAreTheLayersThatAgreedOnThem) {
  run_ranks(2, [](RankWorld& world) {
    const auto memory = core::Memory::cpu(1);
    const auto comm = parallel::make_expert_comm(world.comm);
    const Tensor selection = Tensor::from<std::int32_t>(memory, {3, 1}, std::vector<std::int32_t>{0, 1, 1});
    nn::ExchangePtr exchange;
    {
      const ExchangesOf layer("experts of layer", 5);
      exchange = comm->prepare(selection, 2);
    }
    EXPECT_EQ(last_of(world),
              "all_to_all_v of rows of 1 int32, 3 sent (experts of layer 5, choices of tokens) in group world");
    const Tensor here = comm->dispatch_rows(exchange, Tensor::zeros(memory, DType::F32, {3, 4}));
    EXPECT_EQ(last_of(world),
              "all_to_all_v of rows of 4 float32, 3 sent (experts of layer 5, dispatch) in group world");
    comm->combine_rows(exchange, here);
    EXPECT_EQ(last_of(world), fmt::format("all_to_all_v of rows of 4 float32, {} sent (experts of layer 5, combine) in "
                                          "group world",
                                          world.rank == 0 ? 2 : 4));
  });
}

TEST(ExchangeNames, BetweenStagesAreMicroBatchesAndTheirWay) {
  run_ranks(2, [](RankWorld& world) {
    const Mesh mesh(world.comm, parse_layout("pp2"));
    const auto stages = parallel::make_pipeline_comm(mesh);
    const Tensor x = Tensor::zeros(core::Memory::cpu(1), DType::F32, {2, 3});
    const auto pass = [&](nn::PipelineComm::Kind kind, int from, const std::string& part) {
      if (world.rank == from)
        stages->send(kind, x, 1 - from).wait();
      else
        stages->receive(kind, x, from);
      EXPECT_THAT(last_of(world), ::testing::StartsWith(fmt::format("{} of 6 float32 (micro-batch 2, {}) in group pp ",
                                                                    world.rank == from ? "send" : "receive", part)));
    };
    const ExchangesOf forward("micro-batch", 2, "forward");
    pass(nn::PipelineComm::Kind::Stream, 0, "stream to the next stage");
    pass(nn::PipelineComm::Kind::Gradient, 1, "gradient to the stage before");
    pass(nn::PipelineComm::Kind::Taught, 1, "what the teacher says");
  });
}

}  // namespace
}  // namespace limbeck::testing
