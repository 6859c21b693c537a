#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <tuple>
#include <vector>

#include "core/ops/causal_conv.h"
#include "core/ops/gated_rms_norm.h"
#include "core/ops/state_scan.h"
#include "tests/support/gradient_check.h"
#include "tests/support/sequences.h"
#include "tests/support/teacher_file.h"

namespace limbeck::core {
namespace {

using testing::relative_difference;
using testing::sequences_of, testing::state_of;

constexpr std::int64_t tokens = 66, heads = 4, groups = 2, state_width = 2, taps = 4;
constexpr std::int64_t outer = groups * state_width, channels = heads + 2 * outer;
constexpr ScanShape shape{.num_heads = heads,
                          .width = 1,
                          .num_groups = groups,
                          .state_width = state_width,
                          .least_step = 0.2,
                          .most_step = 1.5};

/// Columns [first, first + count) of x [T,C].
Var columns(Tape& tape, const Var& x, std::int64_t first, std::int64_t count) {
  Tensor y = Tensor::empty(x.value.memory(), x.value.dtype(), {tokens, count});
  const std::int64_t width = x.shape()[1];
  const auto copy = [=](const Tensor& from, std::int64_t from_step, Tensor to, std::int64_t to_step) {
    for (std::int64_t t = 0; t < tokens; ++t)
      std::memcpy(to.mutable_raw() + bytes_of(to.dtype(), t * to_step),
                  from.raw() + bytes_of(to.dtype(), t * from_step),
                  static_cast<std::size_t>(bytes_of(to.dtype(), count)));
  };
  copy(x.value.reshape({tokens * width}).rows(first, tokens * width - first), width, y, count);
  Var out = tape.output(y, {&x});
  tape.push({"columns", {x.slot}, [=, to = x.slot, slot = out.slot, like = x.value] {
               const Tensor all = zeros_like(like);
               copy(gradient(slot, y), count, all.reshape({tokens * width}).rows(first, tokens * width - first), width);
               accumulate(to, all);
             }});
  return out;
}

// transformers' Mamba2Mixer, but for its products with weights.
TEST(Mamba, IsThatOfTransformers) {
  const auto golden = nlohmann::json::parse(std::ifstream(testing::golden_path("ops/mamba.json")));
  const auto memory = Memory::cpu(2);
  for (const auto& [dtype, tolerance] : {std::pair{DType::F64, 1e-11}, std::pair{DType::F32, 2e-5}}) {
    const auto value = [&, dtype = dtype](const std::string& name, const Shape& as) {
      return Tensor::from<double>(memory, as, golden.at(name).get<std::vector<double>>()).to(dtype);
    };
    const auto expect = [&, tolerance = tolerance](const Tensor& found, const std::string& name) {
      EXPECT_LT(relative_difference(found, value(name, found.shape())), tolerance) << name;
    };
    const Var x = leaf(value("x", {tokens, channels})), weight = leaf(value("weight", {channels, taps}));
    const Var bias = leaf(value("bias", {channels})), dt = leaf(value("dt", {tokens, heads}));
    const ScanWeights weights{leaf(value("dt_bias", {heads})), leaf(value("a_log", {heads})),
                              leaf(value("skip", {heads}))};
    const Var z = leaf(value("z", {tokens, heads})), norm = leaf(value("norm", {heads}));
    const Sequences sequences = sequences_of(memory, {{tokens}});

    Tape tape;
    const Var convolved = causal_conv(tape, x, weight, bias, sequences);
    const Var in = columns(tape, convolved, 0, heads), b = columns(tape, convolved, heads, outer);
    const Var c = columns(tape, convolved, heads + outer, outer);
    const Var scanned = state_scan(tape, in, dt, b, c, weights, shape, sequences);
    const Var normed = gated_rms_norm(tape, scanned, z, norm, groups, 1e-5);
    expect(convolved.value, "convolved");
    expect(scanned.value, "scanned");
    expect(normed.value, "normed");
    accumulate(normed.slot, value("upstream", {tokens, heads}));
    tape.run();
    for (const auto& [name, input] : {std::pair{"d_x", x},
                                      {"d_weight", weight},
                                      {"d_bias", bias},
                                      {"d_dt", dt},
                                      {"d_dt_bias", weights.dt_bias},
                                      {"d_a_log", weights.a_log},
                                      {"d_skip", weights.skip},
                                      {"d_z", z},
                                      {"d_norm", norm}})
      expect(input.slot->grad, name);

    Tape off(Tape::Mode::Off);
    Tensor state = Tensor::zeros(memory, dtype, {2, heads, 1, state_width});
    state_scan(off, in, dt, b, c, weights, shape, sequences, state_of(state, {1}));
    expect(state.rows(1, 1), "state");
  }
}

}  // namespace
}  // namespace limbeck::core
