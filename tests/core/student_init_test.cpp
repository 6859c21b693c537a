// How the feed-forwards of a teacher become experts, number by number.

#include "core/nn/student/student_init.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "core/error.h"

namespace limbeck::nn {
namespace {

using core::DType;
using core::Shape;
using core::Tensor;

constexpr std::int64_t width = 3;
constexpr std::int64_t mlp_width = 8;

/// A teacher of one layer: a weight [i,j] is place + 100 i + j, its place told by its name.
class Teacher : public core::StateReader {
 public:
  Teacher() {
    for (const char* name : {"gate", "up"}) tensors_[path(name)] = {{mlp_width, width}, DType::F64};
    tensors_[path("down")] = {{width, mlp_width}, DType::F64};
  }
  static std::string path(const std::string& name) { return "layers.0.mlp." + name + ".weight"; }
  static double value(const std::string& name, std::int64_t i, std::int64_t j) {
    return (name == "gate" ? 1000 : name == "up" ? 2000 : 3000) + static_cast<double>(100 * i + j);
  }
  std::string source() const override { return "teacher"; }
  const std::map<std::string, core::StateInfo>& tensors() const override { return tensors_; }

 private:
  void fill(const std::string& name, const core::StateInfo&, core::StateEntry& entry) const override {
    const std::string which = name.substr(13, name.find(".weight") - 13);
    const Shape& box = entry.tensor.shape();
    for (std::int64_t i = 0; i < box[0]; ++i)
      for (std::int64_t j = 0; j < box[1]; ++j)
        entry.tensor.mutable_data<double>()[i * box[1] + j] = value(which, entry.offset[0] + i, entry.offset[1] + j);
  }

  std::map<std::string, core::StateInfo> tensors_;
};

ModelConfig dense() {
  return {.vocabulary = 5,
          .width = width,
          .num_layers = 1,
          .num_heads = 1,
          .num_kv_heads = 1,
          .head_width = 2,
          .mlp_width = mlp_width,
          .max_positions = 4,
          .moe = {}};
}

Tensor read_whole(const core::StateReader& reader, const std::string& name) {
  core::StateEntry entry =
      core::StateEntry::whole(Tensor::empty(core::Memory::cpu(1), DType::F64, reader.tensors().at(name).shape));
  reader.read(name, entry);
  return entry.tensor;
}

/// Expert e is slice e / copies of the feed-forward, gate and up times `outer`, down times `inner`.
void expect_slices(const Upcycled& upcycled, std::int64_t slices, std::int64_t experts, double outer, double inner) {
  const std::int64_t f = mlp_width / slices, copies = experts / slices;
  for (const char* name : {"gate", "up", "down"}) {
    const bool is_down = std::string(name) == "down";
    const Tensor all = read_whole(upcycled, std::string("layers.0.moe.experts.") + name);
    ASSERT_EQ(all.shape(), (is_down ? Shape{experts, width, f} : Shape{experts, f, width}));
    const std::int64_t rows = all.shape()[1], columns = all.shape()[2];
    for (std::int64_t e = 0; e < experts; ++e)
      for (std::int64_t i = 0; i < rows; ++i)
        for (std::int64_t j = 0; j < columns; ++j) {
          const std::int64_t first = e / copies * f;  // of the slice
          const double of_teacher = is_down ? Teacher::value(name, i, first + j) : Teacher::value(name, first + i, j);
          const double expected = of_teacher * (is_down ? inner : outer);
          ASSERT_NEAR(all.data<double>()[(e * rows + i) * columns + j], expected, 1e-12 * expected)
              << name << " of expert " << e << " at " << i << ", " << j;
        }
  }
}

TEST(StudentInit, LayersKeepTheirWindows) {
  ModelConfig c{.vocabulary = 5,
                .width = 4,
                .num_layers = 7,
                .num_heads = 2,
                .num_kv_heads = 1,
                .head_width = 2,
                .mlp_width = 3,
                .max_positions = 8,
                .moe = {}};
  c.window = 4;
  c.full_layers = {2, 5};
  const ModelConfig kept = skip_layers(c, {0, 2, 3, 5, 6});
  EXPECT_EQ(kept.full_layers, (std::vector<std::int64_t>{1, 3}));
  EXPECT_EQ(kept.layer(0).window, 4);
  EXPECT_EQ(kept.layer(3).window, 0);
}

TEST(Upcycled, AnExactExpertIsItsSliceWithDownTimesTheSlices) {
  const Teacher teacher;
  const Upcycled upcycled(teacher, dense(), {.slices = 4, .experts = 8, .experts_per_token = 4}, true, 1);
  EXPECT_TRUE(upcycled.is_exact());
  expect_slices(upcycled, 4, 8, 1, 4);
}

// Of four slices the first is every token's, half of it behind a gate that starts at one half; three are routed.
TEST(Upcycled, SharedSlicesComeFirstAndAreNoExperts) {
  const Teacher teacher;
  const Upcycled upcycled(teacher, dense(),
                          {.slices = 4, .experts = 6, .experts_per_token = 3, .shared_slices = 1, .shared_gate = true},
                          true, 1);
  EXPECT_TRUE(upcycled.is_exact());
  const std::int64_t f = mlp_width / 4;
  EXPECT_EQ(upcycled.model_config().moe.shared_width, f);
  for (const char* name : {"gate", "up", "down"}) {
    const bool is_down = std::string(name) == "down";
    const Tensor shared = read_whole(upcycled, fmt::format("layers.0.moe.shared.{}.weight", name));
    const Tensor experts = read_whole(upcycled, fmt::format("layers.0.moe.experts.{}", name));
    ASSERT_EQ(shared.shape(), (is_down ? Shape{width, f} : Shape{f, width}));
    for (std::int64_t i = 0; i < shared.shape()[0]; ++i)
      for (std::int64_t j = 0; j < shared.shape()[1]; ++j) {
        const std::int64_t at = i * shared.shape()[1] + j;
        EXPECT_EQ(shared.data<double>()[at], Teacher::value(name, i, j) * (is_down ? 2 : 1)) << name;
        for (std::int64_t e = 0; e < 6; ++e) {
          const std::int64_t first = (1 + e / 2) * f;
          const double of_teacher = is_down ? Teacher::value(name, i, first + j) : Teacher::value(name, first + i, j);
          EXPECT_EQ(experts.data<double>()[e * f * width + at], of_teacher * (is_down ? 3 : 1)) << name << e;
        }
      }
  }
  EXPECT_THAT(core::host_values<double>(read_whole(upcycled, "layers.0.moe.shared_gate.weight")), ::testing::Each(0.0));
  EXPECT_THROW(
      Upcycled(teacher, dense(), {.slices = 4, .experts = 8, .experts_per_token = 4, .shared_slices = 4}, true, 1),
      core::UsageError);
}

TEST(Upcycled, AnInexactExpertIsItsSliceTimesTheCubeRootOfItsFactor) {
  const Teacher teacher;
  // Renormalised weights sum to 1: the factor is the number of slices.
  const Upcycled renormalised(teacher, dense(), {.slices = 4, .experts = 8, .experts_per_token = 2}, true, 1);
  EXPECT_FALSE(renormalised.is_exact());
  expect_slices(renormalised, 4, 8, std::cbrt(4.0), std::cbrt(4.0));
  // Those of all experts do: it is that times E / K.
  const Upcycled of_all(teacher, dense(), {.slices = 2, .experts = 8, .experts_per_token = 2}, false, 1);
  EXPECT_FALSE(of_all.is_exact());
  expect_slices(of_all, 2, 8, std::cbrt(8.0), std::cbrt(8.0));
}

TEST(Upcycled, FeedForwardsWithoutAGateOrWithBiasesAreRefused) {
  const auto refusal = [](bool gate, bool bias) {
    ModelConfig config = dense();
    config.mlp_gate = gate;
    config.mlp_bias = bias;
    return [=] { Upcycled(Teacher(), config, {.slices = 4, .experts = 8, .experts_per_token = 4}, true, 1); };
  };
  using ::testing::HasSubstr;
  using ::testing::ThrowsMessage;
  EXPECT_THAT(refusal(false, true), ThrowsMessage<core::UsageError>(HasSubstr("of teacher have no gate, expected")));
  EXPECT_THAT(refusal(true, true), ThrowsMessage<core::UsageError>(HasSubstr("of teacher have biases, expected")));
}

TEST(Upcycled, TheSlicesOfACopyShareARandomRouterRow) {
  const Teacher teacher;
  const auto router = [&](double deviation, std::uint64_t seed) {
    const Upcycled upcycled(teacher, dense(),
                            {.slices = 2, .experts = 6, .experts_per_token = 2, .router_deviation = deviation}, true,
                            seed);
    return core::host_values<double>(read_whole(upcycled, "layers.0.moe.router.weight"));
  };
  const std::vector<double> rows = router(0.02, 1), wide = router(0.5, 1), reseeded = router(0.02, 2);
  ASSERT_EQ(rows.size(), 6U * width);
  for (std::size_t i = 0; i < 9; ++i) {
    EXPECT_EQ(rows[i], rows[9 + i]);  // expert = slice * 3 + copy
    EXPECT_NEAR(wide[i], 25 * rows[i], 1e-12);
    EXPECT_NE(rows[i], reseeded[i]);
    for (std::size_t j = 0; j < i; ++j) EXPECT_NE(rows[i], rows[j]);
    EXPECT_LT(std::abs(rows[i]), 5 * 0.02);
  }
}

TEST(Upcycled, ACentredRouterIsOrthogonalToTheMeanOfItsInputs) {
  const Teacher teacher;
  Upcycled upcycled(teacher, dense(), {.slices = 2, .experts = 6, .experts_per_token = 2, .router_deviation = 1}, true,
                    1);
  const auto router = [&] { return core::host_values<double>(read_whole(upcycled, "layers.0.moe.router.weight")); };
  const std::vector<double> random = router();
  upcycled.centre_routers({{1, -2, 2}});
  const std::vector<double> centred = router();
  for (std::size_t e = 0; e < 6; ++e) {
    const double* was = random.data() + e * width;
    const double* is = centred.data() + e * width;
    EXPECT_NEAR(is[0] - 2 * is[1] + 2 * is[2], 0, 1e-14);
    // Nothing else was taken: the difference is a multiple of the mean.
    EXPECT_NEAR(was[1] - is[1], -2 * (was[0] - is[0]), 1e-14);
    EXPECT_NEAR(was[2] - is[2], 2 * (was[0] - is[0]), 1e-14);
    for (std::size_t j = 0; j < width; ++j) EXPECT_EQ(is[j], centred[(e + 3) % 6 * width + j]);
  }
  // A box has the values of the whole.
  core::StateEntry box{{6, width}, {1, 2}, Tensor::empty(core::Memory::cpu(1), DType::F64, {2, 1}), true};
  upcycled.read("layers.0.moe.router.weight", box);
  EXPECT_EQ(core::host_values<double>(box.tensor), (std::vector<double>{centred[5], centred[8]}));
  upcycled.centre_routers({{0, 0, 0}});
  EXPECT_EQ(router(), random);
}

}  // namespace
}  // namespace limbeck::nn
