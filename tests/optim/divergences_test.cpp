// The divergences of distillation against PyTorch's values and gradients (tests/golden/objectives).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "core/slice.h"
#include "kernels/distillation.h"
#include "optim/objectives.h"
#include "parallel/axes/communicators.h"

#include "tests/support/teacher_file.h"
#include "tests/support/thread_ranks.h"

namespace limbeck::optim {
namespace {

using core::DType;
using core::Memory;
using core::Tensor;
using kernels::Divergence;

const std::map<std::string, Divergence> kinds = {
    {"forward_kl", Divergence::ForwardKl},          {"reverse_kl", Divergence::ReverseKl},
    {"jensen_shannon", Divergence::JensenShannon},  {"skew_kl", Divergence::SkewKl},
    {"reverse_skew_kl", Divergence::ReverseSkewKl}, {"total_variation", Divergence::TotalVariation}};

struct Golden {
  nlohmann::json all = nlohmann::json::parse(std::ifstream(testing::golden_path("objectives/objectives.json")));
  std::int64_t columns = all.at("columns"), valid = all.at("valid");
  std::vector<std::int32_t> targets = all.at("targets");
  std::vector<double> student = all.at("student"), teacher = all.at("teacher");
  std::int64_t tokens() const { return std::ssize(targets); }
  /// Columns [first, first + count) of [tokens, columns].
  static Tensor part(const core::MemoryPtr& memory, const std::vector<double>& values, std::int64_t columns,
                     core::Slice slice, DType dtype) {
    std::vector<double> taken;
    for (std::size_t row = 0; row < values.size(); row += static_cast<std::size_t>(columns))
      for (std::int64_t c = 0; c < slice.count; ++c)
        taken.push_back(values[row + static_cast<std::size_t>(slice.first + c)]);
    const std::int64_t rows = std::ssize(values) / columns;
    return Tensor::from<double>(memory, {rows, slice.count}, taken).to(dtype);
  }
};

struct Ran {
  double loss;
  std::vector<double> gradient;  // of the part
  core::LossStatistics figures = {};
};

/// The golden logits of a teacher that lacks tokens.
Golden of_lacking() {
  Golden golden;
  for (const std::int64_t column : golden.all.at("lacking"))
    for (std::int64_t row = 0; row < golden.tokens(); ++row)
      golden.teacher[static_cast<std::size_t>(row * golden.columns + column)] = kernels::lacking_logit;
  return golden;
}

/// Of a case, over the columns of one part of the vocabulary. In place: the gradient lies where the logits were.
Ran run_case(const Golden& golden, const nlohmann::json& of_case, nn::TensorComm& comm, core::Slice part, DType dtype,
             bool in_place) {
  const auto memory = Memory::cpu(1);
  const Distillation objective({.ce_weight = of_case.at("alpha"),
                                .temperature = of_case.at("temperature"),
                                .divergence = kinds.at(of_case.at("divergence")),
                                .mix = of_case.at("mix")});
  const Tensor student = Golden::part(memory, golden.student, golden.columns, part, dtype);
  core::LogitsChunk chunk{.student = student,
                          .gradient = in_place ? student : core::empty_like(student),
                          .teacher = Golden::part(memory, golden.teacher, golden.columns, part, dtype),
                          .targets = Tensor::from<std::int32_t>(memory, {golden.tokens()}, golden.targets),
                          .vocabulary_offset = part.first,
                          .num_valid = std::clamp<std::int64_t>(golden.valid - part.first, 0, part.count),
                          .weight = golden.all.at("weight"),
                          .vocabulary = comm};
  core::LossAccumulator losses(memory);
  objective.run(chunk, losses);
  return {losses.read().loss, core::host_values<double>(chunk.gradient.to(DType::F64)), losses.read()};
}

std::string name_of(const nlohmann::json& c) {
  return fmt::format("{} alpha {} T {} mix {}", c.at("divergence").get<std::string>(), c.at("alpha").get<double>(),
                     c.at("temperature").get<double>(), c.at("mix").get<double>());
}

void expect_golden(const Golden& golden, const char* cases) {
  ASSERT_EQ(golden.all.at(cases).size(), 24);
  for (const auto& c : golden.all.at(cases))
    for (const DType dtype : {DType::F64, DType::F32})
      for (const bool in_place : {false, true}) {
        SCOPED_TRACE(name_of(c));
        const double tolerance = dtype == DType::F64 ? 1e-11 : 3e-6;
        const Ran ran = run_case(golden, c, *nn::single_communicators().tensor, {0, golden.columns}, dtype, in_place);
        const double loss = c.at("loss");
        EXPECT_NEAR(ran.loss, loss, tolerance * std::max(1.0, std::abs(loss)));
        const std::vector<double> gradient = c.at("gradient");
        double largest = 0;
        for (const double g : gradient) largest = std::max(largest, std::abs(g));
        for (std::size_t i = 0; i < gradient.size(); ++i)
          ASSERT_NEAR(ran.gradient[i], gradient[i], tolerance * largest) << i;
        // Of cross-entropy and of the divergence alone.
        const double ce = c.at("squares").at(0), divergence = c.at("squares").at(1);
        EXPECT_NEAR(ran.figures.ce_square, ce, 3 * tolerance * (ce + 1e-3));
        EXPECT_NEAR(ran.figures.divergence_square, divergence, 3 * tolerance * (divergence + 1e-3));
      }
}

TEST(Divergences, ValuesAndGradientsAreThoseOfPyTorch) { expect_golden(Golden(), "cases"); }

TEST(Divergences, OfATeacherThatLacksTokensAreOfTheOthers) { expect_golden(of_lacking(), "lacking_cases"); }

void expect_golden_where_cut(const Golden& golden, const char* cases) {
  for (const int ranks : {2, 4})
    testing::run_ranks(ranks, [&](testing::RankWorld& world) {
      const auto comm = parallel::make_tensor_comm(world.comm);
      const core::Slice part = core::slice_of(golden.columns, world.rank, world.size);
      for (const auto& c : golden.all.at(cases)) {
        SCOPED_TRACE(name_of(c));
        const Ran ran = run_case(golden, c, *comm, part, DType::F64, false);
        EXPECT_NEAR(ran.loss, c.at("loss").get<double>(), 1e-11);
        const std::vector<double> gradient = c.at("gradient");
        for (std::int64_t t = 0; t < golden.tokens(); ++t)
          for (std::int64_t j = 0; j < part.count; ++j)
            ASSERT_NEAR(ran.gradient[static_cast<std::size_t>(t * part.count + j)],
                        gradient[static_cast<std::size_t>(t * golden.columns + part.first + j)], 1e-11)
                << t << ' ' << j;
      }
    });
}

TEST(Divergences, AreTheSameWhereTheVocabularyIsCut) {
  expect_golden_where_cut(Golden(), "cases");
  expect_golden_where_cut(of_lacking(), "lacking_cases");
}

TEST(Divergences, FiguresBesideATeacherThatLacksTokensAreOfTheOthers) {
  const Golden golden = of_lacking();
  const auto& expected = golden.all.at("lacking_figures");
  for (const bool in_place : {false, true}) {
    const auto& of_case = golden.all.at("lacking_cases").at(2);  // whatever the temperature
    const core::LossStatistics found =
        run_case(golden, of_case, *nn::single_communicators().tensor, {0, golden.columns}, DType::F64, in_place)
            .figures;
    EXPECT_NEAR(found.kl, expected.at("kl").get<double>(), 1e-11);
    EXPECT_NEAR(found.sum_min, expected.at("sum_min").get<double>(), 1e-11);
    EXPECT_NEAR(found.teacher_ce, expected.at("teacher_ce").get<double>(), 1e-11);
  }
}

/// Loss and gradient where teacher and student are the same.
Ran run_of_equal(Divergence divergence, double temperature, DType dtype) {
  Golden golden;
  golden.teacher = golden.student;
  const auto memory = Memory::cpu(1);
  const Tensor student = Golden::part(memory, golden.student, golden.columns, {0, golden.columns}, dtype);
  core::LogitsChunk chunk{.student = student,
                          .gradient = core::empty_like(student),
                          .teacher = student,
                          .targets = Tensor::from<std::int32_t>(memory, {golden.tokens()}, golden.targets),
                          .num_valid = golden.valid,
                          .weight = 1,
                          .vocabulary = *nn::single_communicators().tensor};
  core::LossAccumulator losses(memory);
  Distillation({.ce_weight = 0, .temperature = temperature, .divergence = divergence, .mix = 0.5}).run(chunk, losses);
  return {losses.read().loss, core::host_values<double>(chunk.gradient.to(DType::F64))};
}

TEST(Divergences, OfEqualDistributionsAreExactlyZero) {
  for (const auto& [name, kind] : kinds)
    for (const double temperature : {1.0, 2.5})
      for (const DType dtype : {DType::F64, DType::F32}) {
        SCOPED_TRACE(name);
        const Ran ran = run_of_equal(kind, temperature, dtype);
        EXPECT_EQ(ran.loss, 0);
        for (const double g : ran.gradient) EXPECT_NEAR(g, 0, dtype == DType::F64 ? 1e-15 : 3e-7);
      }
}

TEST(Divergences, OfTheirBordersAreTheKlsThatTheyGoTo) {
  const Golden golden;
  const auto loss = [&](Divergence kind, double mix) {
    const auto memory = Memory::cpu(1);
    const Tensor student = Golden::part(memory, golden.student, golden.columns, {0, golden.columns}, DType::F64);
    core::LogitsChunk chunk{
        .student = student,
        .gradient = {},
        .teacher = Golden::part(memory, golden.teacher, golden.columns, {0, golden.columns}, DType::F64),
        .targets = Tensor::from<std::int32_t>(memory, {golden.tokens()}, golden.targets),
        .num_valid = golden.valid,
        .weight = 1,
        .vocabulary = *nn::single_communicators().tensor};
    core::LossAccumulator losses(memory);
    Distillation({.ce_weight = 0, .divergence = kind, .mix = mix}).run(chunk, losses);
    return losses.read().loss;
  };
  const double forward = loss(Divergence::ForwardKl, 0.5), reverse = loss(Divergence::ReverseKl, 0.5);
  EXPECT_GT(std::abs(forward - reverse), 0.1);
  EXPECT_EQ(loss(Divergence::JensenShannon, 0), forward);
  EXPECT_EQ(loss(Divergence::JensenShannon, 1), reverse);
  EXPECT_EQ(loss(Divergence::SkewKl, 0), forward);
  EXPECT_EQ(loss(Divergence::ReverseSkewKl, 0), reverse);
  EXPECT_THAT([] { Distillation({.mix = 1.5}); },
              ::testing::ThrowsMessage<core::Error>(::testing::HasSubstr("mix is 1.5")));
}

}  // namespace
}  // namespace limbeck::optim
