#include "optim/clip.h"

#include <gmock/gmock.h>

#include <cmath>
#include <limits>
#include <thread>

#include "parallel/threads/thread_world.h"
#include "tests/optim/parameters.h"

namespace limbeck::optim {
namespace {

using core::Memory;
using core::Parameter;
using testing::error_of;
using ::testing::HasSubstr;
using testing::make_parameter;
using testing::set_gradient;

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double nan = std::numeric_limits<double>::quiet_NaN();

std::unique_ptr<Parameter> with_gradient(const core::MemoryPtr& memory, const std::string& name,
                                         const std::vector<double>& gradient) {
  auto p = make_parameter<double>(memory, name, {static_cast<std::int64_t>(gradient.size())}, gradient);
  set_gradient(*p, gradient);
  return p;
}

/// Of a norm, all on the host.
struct Measured {
  double norm = 0;
  double factor = 1;
  std::string not_finite;
};

Measured measure(const core::ParameterList& parameters, core::Comm& world, double clip) {
  GradientNorm norm(parameters, world, clip);
  const GradientNorm::Values values = norm.values();
  return {values.norm, norm.factor().defined() ? core::host_value(norm.factor()) : 1, values.not_finite};
}

TEST(GradientNorm, IsOverAllParametersAndClips) {
  const auto memory = Memory::cpu(1);
  const auto world = core::single_comm();
  auto a = with_gradient(memory, "a", {2, -4});
  auto b = with_gradient(memory, "b", {5});
  auto none = with_gradient(memory, "none", {});
  auto stale = with_gradient(memory, "stale", {nan});
  stale->slot->has_grad = false;
  auto single = make_parameter<float>(memory, "single", {1}, {0});
  set_gradient<float>(*single, {-6});
  const core::ParameterList all{a.get(), b.get(), none.get(), stale.get(), single.get()};

  const Measured clipped = measure(all, *world, 1.5);  // 4 + 16 + 25 + 36 = 81
  EXPECT_DOUBLE_EQ(clipped.norm, 9);
  EXPECT_DOUBLE_EQ(clipped.factor, 1.5 / 9);
  EXPECT_EQ(clipped.not_finite, "");
  EXPECT_EQ(measure(all, *world, 9).factor, 1);
  EXPECT_EQ(measure(all, *world, 100).factor, 1);
  EXPECT_EQ(measure(all, *world, 0).factor, 1) << "0 never clips";
  EXPECT_EQ(core::host_values<double>(a->slot->grad), (std::vector<double>{2, -4})) << "gradients are not touched";

  const Measured zero = measure({none.get(), stale.get()}, *world, 1);
  EXPECT_EQ(zero.norm, 0);
  EXPECT_EQ(zero.factor, 1);
  EXPECT_EQ(measure({}, *world, 1).norm, 0);
}

TEST(GradientNorm, NamesTheFirstGradientThatIsNotFinite) {
  const auto memory = Memory::cpu(1);
  const auto world = core::single_comm();
  for (const double bad : {nan, infinity, -infinity}) {
    auto c = with_gradient(memory, "c", {1, bad});
    auto a = with_gradient(memory, "a", {1, 2});
    auto b = with_gradient(memory, "b", {bad});
    const Measured norm = measure({c.get(), a.get(), b.get()}, *world, 1);
    EXPECT_EQ(norm.not_finite, "b");
    EXPECT_FALSE(std::isfinite(norm.norm));
    EXPECT_TRUE(std::isnan(norm.factor));
  }
}

TEST(GradientNorm, RefusesFrozenParametersAndNegativeClips) {
  const auto memory = Memory::cpu(1);
  const auto world = core::single_comm();
  auto a = with_gradient(memory, "a", {1});
  EXPECT_THAT(error_of([&] { measure({a.get()}, *world, -1); }), HasSubstr("clip is -1"));
  EXPECT_THAT(error_of([&] { measure({a.get()}, *world, nan); }), HasSubstr("clip is nan"));
  a->slot.reset();
  EXPECT_THAT(error_of([&] { measure({a.get()}, *world, 1); }), HasSubstr("gradient_norm: parameter a is frozen"));
}

/// Runs f(rank, world) on every rank of a world of threads; the results in rank order.
template <class F>
std::vector<Measured> on_ranks(int num_ranks, F f) {
  parallel::ThreadWorld world(num_ranks);
  std::vector<Measured> results(static_cast<std::size_t>(num_ranks));
  {
    std::vector<std::jthread> ranks;
    for (int r = 0; r < num_ranks; ++r)
      ranks.emplace_back([&, r] {
        const auto comm = world.comm(r);
        results[static_cast<std::size_t>(r)] = f(r, *comm);
      });
  }
  return results;
}

// dp 4 with two expert groups: experts {3} on ranks 0 and 2, {4} on ranks 1 and 3; the weight is on every rank.
TEST(GradientNorm, CountsAReplicatedPartOnce) {
  const auto results = on_ranks(4, [](int rank, core::Comm& world) {
    const auto memory = Memory::cpu(1);
    auto weight = with_gradient(memory, "weight", {12, 0});
    auto experts = with_gradient(memory, "experts", {rank % 2 == 0 ? 3.0 : 4.0});
    weight->first_replica = rank == 0;
    experts->first_replica = rank < 2;
    return measure({weight.get(), experts.get()}, world, 6.5);
  });
  for (const Measured& r : results) {
    EXPECT_DOUBLE_EQ(r.norm, 13);  // 144 + 9 + 16 = 169
    EXPECT_DOUBLE_EQ(r.factor, 0.5);
  }
}

TEST(GradientNorm, IsBitEqualOnEveryRankAndRepeats) {
  const auto run = [] {
    return on_ranks(3, [](int rank, core::Comm& world) {
      std::vector<double> gradient;
      for (int i = 0; i < 1001; ++i) gradient.push_back(std::sin(1000.0 * rank + i));
      auto p = with_gradient(Memory::cpu(1), "p", gradient);
      return measure({p.get()}, world, 1);
    });
  };
  const auto first = run();
  const auto second = run();
  EXPECT_EQ(first[0].norm, first[1].norm);
  EXPECT_EQ(first[0].norm, first[2].norm);
  EXPECT_EQ(first[0].norm, second[0].norm);
}

// Of a stage of a pipeline whose parameters are all frozen, whose sum has to meet the others' on their devices.
TEST(GradientNorm, OfARankWithoutParametersLiesWhereTheOthersDo) {
  const auto memory = Memory::hidden_cpu(1);
  const GradientNorm norm(std::vector<Fragment>{}, *core::single_comm(), 1, {"another's"}, memory);
  EXPECT_EQ(norm.factor().memory(), memory);
}

TEST(GradientNorm, EveryRankNamesTheSameOffender) {
  const auto results = on_ranks(2, [](int rank, core::Comm& world) {
    const auto memory = Memory::cpu(1);
    auto a = with_gradient(memory, "a", {1});
    auto b = with_gradient(memory, "b", {rank == 1 ? nan : 1.0});
    auto c = with_gradient(memory, "c", {rank == 0 ? infinity : 1.0});
    return measure({a.get(), b.get(), c.get()}, world, 1);
  });
  EXPECT_EQ(results[0].not_finite, "b");
  EXPECT_EQ(results[1].not_finite, "b");
}

}  // namespace
}  // namespace limbeck::optim
