// Biases of experts and their gradients on whatever ranks they lie, in numbers whose sums are exact.
#include <gtest/gtest.h>

#include <mutex>
#include <string>
#include <vector>

#include "core/nn/moe.h"
#include "launch/run/batch.h"
#include "launch/run/rank.h"
#include "tests/support/tensors.h"
#include "tests/support/thread_ranks.h"

namespace limbeck {
namespace {

using core::DType;
using core::Tensor;

constexpr std::int64_t E = 4, C = 6, F = 5, T = 12;  // tokens of a rank with data of its own

// An expert's first matrices are 0, so that its gate and up are their biases; gates are so large that their sigmoid
// is 1.
double gate(std::int64_t e, std::int64_t f) { return static_cast<double>(40 + (7 * e + 3 * f) % 24); }
double up(std::int64_t e, std::int64_t f) { return static_cast<double>(1 + (5 * e + f) % 11); }
double down_bias(std::int64_t e, std::int64_t c) { return static_cast<double>(1000 * (e + 1) + 10 * c); }
/// down[e,c,f] is 1 where f is that of c.
std::int64_t neuron(std::int64_t c) { return c % F; }
/// Token t's experts, each by half.
bool has(std::int64_t t, std::int64_t e) { return e == t % E || e == (t + 1) % E; }
double dy(std::int64_t t, std::int64_t c) { return static_cast<double>(2 * (1 + (t + 3 * c) % 5)); }

template <class Value>
void fill(const core::Parameter& p, Value value) {
  Tensor values = p.value;
  core::for_each_element(p, [&](std::int64_t i, std::int64_t g) { values.mutable_data<double>()[i] = value(g); });
}

using Gradient = std::vector<double>;

/// The gradients of gate_bias, up_bias and down_bias, added up over the ranks.
std::vector<Gradient> run(const char* layout, int ranks) {
  std::vector<Gradient> gradients = {Gradient(E * F), Gradient(E * F), Gradient(E * C)};
  std::mutex mutex;
  testing::run_ranks(ranks, [&](testing::RankWorld& world) {
    launch::Rank rank(world.comm, layout, 1);
    const nn::ModelOptions options = rank.sharded(DType::F64);
    core::ParameterSet parameters({.memory = rank.memory(), .dtype = DType::F64, .place = options.place});
    nn::Moe moe = nn::make_moe(
        parameters, "moe", C,
        {.num_experts = E, .experts_per_token = 2, .expert_width = F, .dense_layers = {}, .expert_bias = true});
    moe.activation = nn::Activation::ClampedSwish;
    moe.activation_limit = 64;
    fill(*moe.router, [](std::int64_t g) { return has(g % C, g / C) && g % C < E ? 8.0 : 0.0; });
    for (core::Parameter* weight : {moe.gate, moe.up}) fill(*weight, [](std::int64_t) { return 0.0; });
    fill(*moe.down, [](std::int64_t g) { return g % F == neuron(g / F % C) ? 1.0 : 0.0; });
    fill(*moe.gate_bias, [](std::int64_t g) { return gate(g / F, g % F); });
    fill(*moe.up_bias, [](std::int64_t g) { return up(g / F, g % F); });
    fill(*moe.down_bias, [](std::int64_t g) { return down_bias(g / C, g % C); });

    const std::int64_t before = rank.mesh().dp().rank() * T;
    data::TokenBatch samples{1, T, std::vector<std::int32_t>(T), std::vector<std::int32_t>(T, -1), {}, {}};
    for (std::int32_t t = 0; t < T; ++t) samples.positions.push_back(t);
    samples.documents.resize(T);
    const nn::Batch batch = launch::make_batch(rank.memory(), samples, 0, 1, rank.mesh().dp().rank());
    std::vector<double> x(T * C), upstream;
    for (std::int64_t t = 0; t < T; ++t) {
      x[static_cast<std::size_t>(t * C + (before + t) % E)] = 1;
      for (std::int64_t c = 0; c < C; ++c) upstream.push_back(dy(before + t, c));
    }
    core::Tape tape;
    nn::AuxiliaryLosses losses;
    const nn::Pass pass{.batch = batch, .comms = options.comms, .ropes = {}, .attention = batch.attention_layout()};
    const core::Var y = moe.forward(tape, pass, core::leaf(testing::tensor<double>(rank.memory(), {T, C}, x)), losses);
    for (std::int64_t t = 0; t < T; ++t)
      for (std::int64_t c = 0; c < C; ++c) {
        double expected = 0;
        for (std::int64_t e = 0; e < E; ++e)
          if (has(before + t, e)) expected += (gate(e, neuron(c)) * (up(e, neuron(c)) + 1) + down_bias(e, c)) / 2;
        ASSERT_EQ(y.value.data<double>()[t * C + c], expected) << layout << " " << t << "," << c;
      }
    core::accumulate(y.slot, testing::tensor<double>(rank.memory(), {T, C}, upstream));
    tape.run();
    const std::scoped_lock lock(mutex);
    std::size_t which = 0;
    for (const core::Parameter* p : {moe.gate_bias, moe.up_bias, moe.down_bias}) {
      Gradient& whole = gradients[which++];
      if (p->slot->has_grad)
        core::for_each_element(*p, [&](std::int64_t i, std::int64_t g) {
          whole[static_cast<std::size_t>(g)] += p->slot->grad.data<double>()[i];
        });
    }
  });
  return gradients;
}

TEST(ExpertBias, IsAddedOnceWhereverItLies) {
  for (const auto& [layout, ranks] : {std::pair("dp1", 1),
                                      {"dp2", 2},
                                      {"tp2", 2},
                                      {"ep2", 2},
                                      {"etp2", 2},
                                      {"ep4", 4},
                                      {"tp2ep2", 4},
                                      {"ep2etp2", 4},
                                      {"tp2etp2", 4}}) {
    SCOPED_TRACE(layout);
    const std::int64_t tokens = T * ranks / (std::string(layout).starts_with("tp2") ? 2 : 1);
    std::vector<Gradient> expected = {Gradient(E * F), Gradient(E * F), Gradient(E * C)};
    for (std::int64_t t = 0; t < tokens; ++t)
      for (std::int64_t e = 0; e < E; ++e)
        for (std::int64_t c = 0; has(t, e) && c < C; ++c) {
          const std::int64_t f = neuron(c);
          expected[0][e * F + f] += dy(t, c) / 2 * (up(e, f) + 1);
          expected[1][e * F + f] += dy(t, c) / 2 * gate(e, f);
          expected[2][e * C + c] += dy(t, c) / 2;
        }
    EXPECT_EQ(run(layout, ranks), expected);
  }
}

}  // namespace
}  // namespace limbeck
