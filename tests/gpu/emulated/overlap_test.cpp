// What goes on while collectives are held up: had it to wait for one, it would never come. And how long kernels stand
// still for them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <thread>
#include <utility>
#include <variant>
#include <vector>

#include "core/ops/linear.h"
#include "core/ops/moe_exchange.h"
#include "parallel/axes/communicators.h"
#include "parallel/axes/expert_comm.h"
#include "parallel/axes/gradient_sync.h"
#include "parallel/comm/engine.h"
#include "tests/cuda_emulation/emulation.h"
#include "tests/gpu/peers.h"

namespace limbeck {
namespace {

using core::DType;
using core::Tensor;
using core::Var;
using parallel::CommAxis;
using parallel::Traffic;
using ::testing::Each;
using testing::GpuGroup;
using namespace std::chrono_literals;

/// No collective that is queued from here on comes to its end before this goes.
class Held {
 public:
  explicit Held(const GpuGroup& group) : group_(*group.comm) {
    core::host_values<float>(group.numbers(1));  // what was queued before has ended
    group_.barrier();
    emulation::set_links(emulation::Links::Held);
    group_.barrier();
  }
  ~Held() {
    group_.barrier();
    emulation::set_links(emulation::Links::Good);
    group_.barrier();
  }
  Held(const Held&) = delete;
  Held& operator=(const Held&) = delete;

 private:
  parallel::WorldComm& group_;
};

Tensor filled(const core::MemoryPtr& memory, const core::Shape& shape, float value) {
  return Tensor::from<float>(memory, shape, std::vector<float>(static_cast<std::size_t>(shape.numel()), value));
}

core::Parameter make_parameter(const std::string& name, const Tensor& value, const char* axis) {
  core::Parameter p;
  p.name = name;
  p.global_shape = value.shape();
  p.placement = {{.axis = axis, .role = core::AxisRole::PartialGradient}};
  p.value = value;
  p.slot = std::make_shared<core::Slot>();
  return p;
}

TEST(GpuOverlap, BackwardGoesOnBesideTheBucketsOfWhatIsFinal) {
  testing::run_ranks(2, [](testing::RankWorld& world) {
    const GpuGroup group(world);
    const parallel::Mesh mesh(group.comm, parallel::parse_layout("dp2"));
    core::Parameter first = make_parameter("first", group.numbers(300), "dp"),
                    second = make_parameter("second", group.numbers(300), "dp");
    parallel::GradientSync sync({&first, &second}, mesh, group.memory, DType::F32, /*bucket_bytes=*/1);
    sync.begin_step();
    {
      const Held held(group);
      for (core::Parameter* p : {&second, &first}) {
        p->slot->grad.copy_from(filled(group.memory, {300}, 2));
        p->slot->has_grad = true;
        sync.parameter_final(*p);
        EXPECT_THAT(core::host_values<float>(filled(group.memory, {300}, 3).clone()), Each(3));  // kernels behind it
      }
      EXPECT_EQ(sync.statistics().start_order.size(), 2U);
    }
    sync.finish();
    for (const core::Parameter* p : {&first, &second}) EXPECT_THAT(core::host_values<float>(p->slot->grad), Each(4));
  });
}

// The gradient of a weight behind a dispatch is made while the rows' is on its way back, and that of one before it
// while the rows of the combine are.
TEST(GpuOverlap, WeightPartsAndWhatIsBetweenRunBesideAnExchange) {
  testing::run_ranks(2, [](testing::RankWorld& world) {
    const GpuGroup group(world);
    const auto comm = parallel::make_expert_comm(group.comm);
    const Tensor selection = Tensor::from<std::int32_t>(group.memory, {5, 1}, std::vector<std::int32_t>{0, 0, 0, 1, 1});
    const nn::ExchangePtr exchange = comm->prepare(selection, 2);

    core::Parameter weight = make_parameter("weight", filled(group.memory, {4, 4}, 1), "dp");
    weight.slot->parameter = &weight;
    weight.slot->grad = filled(group.memory, {4, 4}, 0);
    core::Tape tape;
    tape.set_weight_parts(core::Tape::WeightParts::InWaits);
    std::vector<core::HostCopy> made;
    tape.on_parameter_done([&](core::Parameter& p) { made.emplace_back(p.slot->grad); });
    const Var x = core::leaf(filled(group.memory, {5, 4}, 1));
    Var out;
    {
      const Held held(group);
      core::DispatchUnderWay there(tape, x, *comm, exchange);
      EXPECT_THAT(core::host_values<float>(x.value.clone()), Each(1));  // what is between
      group.comm->barrier();
      emulation::set_links(emulation::Links::Good);
      out = core::linear(tape, there.finish(), core::as_var(weight));
      core::host_values<float>(out.value);
    }
    core::accumulate(out.slot, filled(group.memory, out.shape(), 1));
    {
      const Held held(group);
      tape.run();
      ASSERT_EQ(made.size(), 1U);
      const float rows = world.rank == 0 ? 6 : 4;  // of both ranks
      EXPECT_THAT(made[0].get<float>(), Each(rows));
    }
    EXPECT_THAT(core::host_values<float>(x.slot->grad), Each(4));
  });
}

// The last stage is ahead in what its teacher says, which others take when they come to it; streams and gradients go
// round meanwhile.
TEST(GpuOverlap, StagesSendBesideWhatTheLastOneSays) {
  using Kind = nn::PipelineComm::Kind;
  testing::run_ranks(3, [](testing::RankWorld& world) {
    const GpuGroup group(world);
    const parallel::Mesh mesh(group.comm, parallel::parse_layout("pp3"));
    const auto stages = parallel::make_pipeline_comm(mesh);
    const std::int64_t me = stages->rank(), last = 2;
    std::vector<core::CommHandle> sent;
    const auto send = [&](Kind kind, std::int64_t number, std::int64_t to) {
      sent.push_back(stages->send(kind, filled(group.memory, {4}, static_cast<float>(number)), to));
    };
    const auto expect = [&](Kind kind, std::int64_t number, std::int64_t from) {
      const Tensor x = group.numbers(4);
      stages->receive(kind, x, from);
      EXPECT_THAT(core::host_values<float>(x), Each(static_cast<float>(number)));
    };
    for (std::int64_t said = 1; me == last && said <= 3; ++said)
      for (const std::int64_t to : {0, 1}) send(Kind::Taught, said, to);
    for (const auto& [kind, by] : {std::pair(Kind::Stream, 1), {Kind::Gradient, 2}}) {
      send(kind, 10 + me, (me + by) % 3);
      expect(kind, 10 + (me + 3 - by) % 3, (me + 3 - by) % 3);
    }
    for (std::int64_t said = 1; me != last && said <= 3; ++said) expect(Kind::Taught, said, last);
  });
}

/// For a GPU.
void queue_400_ms(const GpuGroup& group) {
  const auto& cuda = std::get<kernels::Cuda>(group.memory->device());
  kernels::check_cuda(cudaLaunchHostFunc(
      cuda.state->stream, [](void*) { std::this_thread::sleep_for(400ms); }, nullptr));
}

/// What is counted of a sum that is held up for 200 ms, with kernels that go on beside it, or none; and before it ends.
struct HeldSum {
  Traffic under_way, done;
};
HeldSum counted_of_held_sum(const GpuGroup& group, parallel::WorldComm& axis, bool has_kernels) {
  parallel::CommTally& tally = group.comm->engine().tally();
  HeldSum counted;
  const Tensor x = filled(group.memory, {4}, 1);
  {
    const Held held(group);
    tally.take();
    core::CommHandle sum = axis.all_reduce_async(x, core::Reduce::Sum);
    auto since = std::chrono::steady_clock::now();
    if (has_kernels) queue_400_ms(group);
    sum.wait();
    if (!has_kernels) since = std::chrono::steady_clock::now();
    counted.under_way = tally.take();  // which may run the kernels, here
    std::this_thread::sleep_until(since + 200ms);
  }
  EXPECT_THAT(core::host_values<float>(x), Each(2));
  counted.done = tally.take();
  return counted;
}

TEST(GpuOverlap, WhatKernelsWaitForIsExposedInItsAxisAndWhatGoesOnBesideThemIsNot) {
  testing::run_ranks(2, [](testing::RankWorld& world) {
    const GpuGroup group(world);
    const auto tp = group.comm->split(0, world.rank, "tp"), dp = group.comm->split(0, world.rank, "dp gradients");
    const auto waited = [](const Traffic& traffic, CommAxis axis) {
      return std::chrono::nanoseconds(traffic.at(axis, Traffic::WaitedNs));
    };
    const HeldSum alone = counted_of_held_sum(group, *tp, false), beside = counted_of_held_sum(group, *dp, true);
    EXPECT_EQ(waited(alone.under_way, CommAxis::Tp), 0ns);  // nobody waits to know
    EXPECT_GT(waited(alone.done, CommAxis::Tp), 100ms);
    EXPECT_EQ(waited(alone.done, CommAxis::Dp), 0ns);
    EXPECT_GT(beside.under_way.at(CommAxis::Dp, Traffic::BytesInside), 0);
    EXPECT_LT(waited(beside.done, CommAxis::Dp), 150ms);
    EXPECT_EQ(waited(beside.done, CommAxis::Tp), 0ns);
  });
}

}  // namespace
}  // namespace limbeck
