// Distillation from kept tokens against PyTorch's autograd (tests/golden/optim/make_cached_distillation.py) and against
// the whole distribution.
#include "optim/cached_distillation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>

#include "core/ops/sparse_targets.h"
#include "core/ops/tensor_exchange.h"
#include "core/slice.h"
#include "data/teacher_cache/cached_rows.h"
#include "optim/objectives.h"
#include "parallel/axes/communicators.h"
#include "tests/support/gradient_check.h"
#include "tests/support/teacher_file.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/thread_ranks.h"

namespace limbeck::optim {
namespace {

using core::DType;
using core::LossStatistics;
using core::Memory;
using core::MemoryPtr;
using core::SparseTargets;
using core::SparseTeacher;
using core::Tape;
using core::Tensor;
using core::Var;
using nlohmann::json;
using testing::error_of;
using ::testing::HasSubstr;
using testing::random_tensor;
using testing::relative_difference;

constexpr double infinity = std::numeric_limits<double>::infinity();

std::vector<double> log_softmax(std::vector<double> z, double temperature) {
  const double most = *std::max_element(z.begin(), z.end());
  double sum = 0;
  for (double& x : z) sum += std::exp(x = (x - most) / temperature);
  for (double& x : z) x -= std::log(sum);
  return z;
}

/// Kept tokens of teachers [n,V] of which `valid` count. `ids` and `shares` of each row.
struct Kept {
  std::vector<std::vector<std::int32_t>> ids;
  std::vector<std::vector<double>> shares = {};  // of draws
};

SparseTargets targets_of(const MemoryPtr& memory, DType dtype, const std::vector<std::vector<double>>& teacher,
                         const Kept& kept, double temperature, const std::vector<std::int32_t>& targets) {
  const auto n = std::ssize(teacher);
  std::size_t width = 1;
  for (const auto& ids : kept.ids) width = std::max(width, ids.size());
  std::vector<std::int32_t> ids(teacher.size() * width, -1), likeliest;
  std::vector<double> log_p[2] = {std::vector<double>(ids.size()), std::vector<double>(ids.size())}, rest[2], loss;
  for (std::size_t i = 0; i < teacher.size(); ++i) {
    const std::vector<double> p[2] = {log_softmax(teacher[i], 1), log_softmax(teacher[i], temperature)};
    likeliest.push_back(static_cast<std::int32_t>(std::max_element(p[0].begin(), p[0].end()) - p[0].begin()));
    loss.push_back(targets[i] < 0 ? 0 : -p[0][static_cast<std::size_t>(targets[i])]);
    for (int side = 0; side < 2; ++side) {
      double left = 0, entropy = 0;
      for (std::size_t v = 0; v < p[side].size(); ++v) {
        entropy -= std::exp(p[side][v]) * p[side][v];
        if (std::find(kept.ids[i].begin(), kept.ids[i].end(), static_cast<std::int32_t>(v)) == kept.ids[i].end())
          left += std::exp(p[side][v]);
      }
      for (std::size_t j = 0; j < kept.ids[i].size(); ++j) {
        ids[i * width + j] = kept.ids[i][j];
        log_p[side][i * width + j] =
            kept.shares.empty() ? p[side][static_cast<std::size_t>(kept.ids[i][j])] : kept.shares[i][j];
      }
      rest[side].push_back(!kept.shares.empty() ? entropy : left > 0 ? std::log(left) : -infinity);
    }
  }
  const auto column = [&](const std::vector<double>& values, bool is_wide) {
    const core::Shape shape = is_wide ? core::Shape{n, static_cast<std::int64_t>(width)} : core::Shape{n};
    return Tensor::from<double>(memory, shape, values).to(dtype);
  };
  SparseTargets sparse{
      .ids = Tensor::from<std::int32_t>(memory, {n, static_cast<std::int64_t>(width)}, ids),
      .log_p = column(log_p[0], true),
      .rest = column(rest[0], false),
      .likeliest = Tensor::from<std::int32_t>(memory, {n}, likeliest),
      .target_loss = column(loss, false),
      .temperature = temperature,
      .draws = !kept.shares.empty(),
  };
  if (temperature != 1) sparse.log_p_tempered = column(log_p[1], true), sparse.rest_tempered = column(rest[1], false);
  return sparse;
}

struct Problem {
  MemoryPtr memory = Memory::cpu(2);
  std::vector<std::int32_t> targets;
  Tensor hidden, weight;
  std::vector<std::vector<double>> teacher;
  std::int64_t valid = 0;

  Tensor target_tensor() const { return Tensor::from<std::int32_t>(memory, {std::ssize(targets)}, targets); }
};

struct Result {
  LossStatistics statistics;
  Tensor hidden_gradient, weight_gradient;
};

Result run(const Problem& p, const SparseTargets& sparse, const core::Objective& objective, double weight,
           std::int64_t chunk, DType dtype = DType::F64, DType hidden_dtype = DType::F64) {
  SparseTeacher teacher(sparse);
  core::LossAccumulator losses(p.memory, /*keeps_each=*/true);
  Tape tape;
  const Var hidden = core::leaf(p.hidden.to(hidden_dtype)), head = core::leaf(p.weight.to(dtype));
  tape.backward(core::head_loss(tape, hidden, head, p.target_tensor(), objective, &teacher,
                                *nn::single_communicators().tensor,
                                {.weight = weight, .chunk = chunk, .valid_vocabulary = p.valid}, losses));
  return {losses.read(), hidden.slot->grad, head.slot->grad};
}

class Golden : public ::testing::Test {
 protected:
  void SetUp() override {
    std::ifstream file(testing::golden_path("optim/cached_distillation.json"));
    golden = json::parse(file);
    problem.targets = golden["targets"].get<std::vector<std::int32_t>>();
    problem.valid = golden["valid"];
    const std::int64_t n = golden["tokens"], v = golden["vocabulary"], c = golden["width"];
    const auto tensor = [&](const char* name, std::int64_t rows) {
      return Tensor::from<double>(problem.memory, {rows, c}, golden[name].get<std::vector<double>>());
    };
    problem.hidden = tensor("hidden", n);
    problem.weight = tensor("head", v);
    const auto teacher = golden["teacher"].get<std::vector<double>>();
    for (std::int64_t i = 0; i < n; ++i)
      problem.teacher.emplace_back(teacher.begin() + i * v, teacher.begin() + i * v + problem.valid);
  }
  static Kept kept_of(const json& c) {
    Kept kept;
    for (const json& row : c["rows"]) {
      kept.ids.push_back(row["ids"]);
      if (c["kind"] == "sampled") kept.shares.push_back(row["shares"]);
    }
    return kept;
  }
  SparseTargets targets_of_case(const json& c, DType dtype) const {
    return targets_of(problem.memory, dtype, problem.teacher, kept_of(c), c["temperature"], problem.targets);
  }
  static CachedDistillation objective_of(const json& c) {
    return CachedDistillation(
        {.ce_weight = c["alpha"], .temperature = c["temperature"], .renormalised = c["kind"] == "renormalised"});
  }
  json golden;
  Problem problem;
};

void expect_near(const Tensor& got, const json& expected, double tolerance, const std::string& what) {
  const auto values = expected.get<std::vector<double>>();
  const std::vector<double> found = core::host_values<double>(got.to(DType::F64));
  ASSERT_EQ(found.size(), values.size());
  double greatest = 0.01;
  for (const double v : values) greatest = std::max(greatest, std::abs(v));
  for (std::size_t i = 0; i < values.size(); ++i)
    ASSERT_NEAR(found[i], values[i], tolerance * greatest) << what << " " << i;
}

TEST_F(Golden, LossesAndGradientsAreThoseOfPyTorch) {
  ASSERT_EQ(golden["cases"].size(), 40U);
  for (const json& c : golden["cases"])
    for (const std::int64_t chunk : {1, 2, 16}) {
      const std::string what = fmt::format("{} of {} at {}", c["kind"].get<std::string>(), c["kept"].get<int>(),
                                           c["temperature"].get<double>());
      const Result r = run(problem, targets_of_case(c, DType::F64), objective_of(c), golden["weight"], chunk);
      EXPECT_NEAR(r.statistics.loss, c["loss"], 1e-11) << what;
      expect_near(r.hidden_gradient, c["hidden_gradient"], 1e-11, what + ", hidden");
      expect_near(r.weight_gradient, c["head_gradient"], 1e-11, what + ", head");
      std::size_t each = 0;
      for (const json& row : c["rows"]) {
        if (!row.contains("kl")) continue;
        const core::TokenLoss& loss = r.statistics.each.at(each++);
        EXPECT_NEAR(loss.kl, row["kl"], 1e-11) << what;
        EXPECT_NEAR(loss.ce, row["ce"], 1e-11) << what;
        EXPECT_NEAR(loss.teacher_ce, row["teacher_ce"], 1e-11) << what;
        EXPECT_EQ(loss.agreement, row["agreement"].get<double>()) << what;
        if (c["kind"] == "sampled") continue;
        EXPECT_GE(loss.kl, 0) << what;
        EXPECT_LE(loss.kl, row["full_kl"].get<double>() + 1e-12) << what;
        if (c["kept"] == problem.valid) {
          EXPECT_NEAR(loss.kl, row["full_kl"], 1e-11) << what;
        }
      }
    }
}

// The terms' gradients by themselves are those of an alpha of 1 and of 0.
TEST_F(Golden, LengthsByTermAreThoseOfTheTermsGradients) {
  const Tensor logits = core::logits_of(problem.hidden, problem.weight);
  const auto run_at = [&](const json& c, double alpha, core::LossAccumulator& losses) {
    core::LogitsChunk chunk{.student = logits,
                            .gradient = core::empty_like(logits),
                            .teacher = {},
                            .sparse = targets_of_case(c, DType::F64),
                            .targets = problem.target_tensor(),
                            .num_valid = problem.valid,
                            .weight = 0.3,
                            .vocabulary = *nn::single_communicators().tensor};
    CachedDistillation(
        {.ce_weight = alpha, .temperature = c["temperature"], .renormalised = c["kind"] == "renormalised"})
        .run(chunk, losses);
    double square = 0;
    for (const double g : core::host_values<double>(chunk.gradient)) square += g * g;
    return square;
  };
  for (const json& c : golden["cases"]) {
    core::LossAccumulator of_ce(problem.memory), of_divergence(problem.memory), both(problem.memory);
    const double ce = run_at(c, 1, of_ce), divergence = run_at(c, 0, of_divergence);
    run_at(c, 0.25, both);
    const LossStatistics s = both.read();
    EXPECT_NEAR(s.ce_square, 0.25 * 0.25 * ce, 1e-12 * ce);
    EXPECT_NEAR(s.divergence_square, 0.75 * 0.75 * divergence, 1e-12 * divergence + 1e-25);
  }
}

TEST_F(Golden, LowerPrecisionAgrees) {
  for (const json& c : golden["cases"]) {
    if (c["kind"] == "renormalised" && c["kept"] == 1 && c["alpha"] == 0.0) continue;  // whose gradient is 0
    const Result exact = run(problem, targets_of_case(c, DType::F64), objective_of(c), 0.3, 3);
    const Result single = run(problem, targets_of_case(c, DType::F32), objective_of(c), 0.3, 3, DType::F32, DType::F32);
    EXPECT_NEAR(single.statistics.loss, exact.statistics.loss, 2e-5);
    EXPECT_LE(relative_difference(single.hidden_gradient, exact.hidden_gradient), 5e-6);
    EXPECT_LE(relative_difference(single.weight_gradient, exact.weight_gradient), 5e-6);
    // The logits' gradient is rounded to bfloat16, beside what products with bfloat16 factors round.
    Problem rounded = problem;
    rounded.hidden = problem.hidden.to(DType::BF16).to(DType::F64);
    const Result expected = run(rounded, targets_of_case(c, DType::F64), objective_of(c), 0.3, 3);
    const Result half = run(rounded, targets_of_case(c, DType::F32), objective_of(c), 0.3, 3, DType::F32, DType::BF16);
    EXPECT_LE(relative_difference(half.weight_gradient, expected.weight_gradient), 2e-2);
  }
}

// A vocabulary that is cut over ranks, unevenly, with padding in the last part.
TEST_F(Golden, ACutVocabularyChangesNothing) {
  for (const int ranks : {2, 4})
    for (const json& c : golden["cases"]) {
      const Result whole = run(problem, targets_of_case(c, DType::F64), objective_of(c), 0.3, 3);
      testing::run_ranks(ranks, [&](testing::RankWorld& world) {
        const auto comm = parallel::make_tensor_comm(world.comm);
        const core::Slice mine = core::slice_of(problem.weight.shape()[0], world.rank, world.size);
        SparseTeacher teacher(targets_of_case(c, DType::F64));
        core::LossAccumulator losses(problem.memory, true);
        Tape tape;
        const Var hidden = core::leaf(problem.hidden.clone()),
                  head = core::leaf(problem.weight.rows(mine.first, mine.count).clone());
        tape.backward(core::head_loss(
            tape, core::enter(tape, hidden, *comm), head, problem.target_tensor(), objective_of(c), &teacher, *comm,
            {.weight = 0.3, .chunk = 3, .vocabulary_offset = mine.first, .valid_vocabulary = problem.valid}, losses));
        const LossStatistics s = losses.read();
        EXPECT_NEAR(s.loss, whole.statistics.loss, 1e-12);
        EXPECT_NEAR(s.kl, whole.statistics.kl, 1e-12);
        EXPECT_NEAR(s.sum_min, whole.statistics.sum_min, 1e-12);
        EXPECT_EQ(s.agreement, whole.statistics.agreement);
        EXPECT_LT(relative_difference(hidden.slot->grad, whole.hidden_gradient), 1e-12);
        EXPECT_LT(relative_difference(head.slot->grad, whole.weight_gradient.rows(mine.first, mine.count)), 1e-12);
      });
    }
}

Problem random_problem(std::int64_t n, std::int64_t vocabulary) {
  Problem p;
  p.hidden = random_tensor(p.memory, {n, 3}, 1);
  p.weight = random_tensor(p.memory, {vocabulary, 3}, 2);
  p.valid = vocabulary;
  const Tensor teacher = random_tensor(p.memory, {n, vocabulary}, 3);
  for (std::int64_t i = 0; i < n; ++i) {
    p.targets.push_back(static_cast<std::int32_t>(i * 5 % vocabulary));
    const double* row = teacher.data<double>() + i * vocabulary;
    p.teacher.emplace_back(row, row + vocabulary);
  }
  return p;
}

// A student whose logits are the teacher's learns nothing, however little is kept.
TEST(CachedDistillationObjective, OfEqualModelsHasNoDivergence) {
  Problem p = random_problem(4, 40);
  const Tensor logits = core::logits_of(p.hidden, p.weight);
  for (std::int64_t i = 0; i < 4; ++i) std::copy_n(logits.data<double>() + i * 40, 40, p.teacher[i].begin());
  const Kept kept{std::vector<std::vector<std::int32_t>>(4, {1, 7, 30})};
  for (const double temperature : {1.0, 3.0})
    for (const bool renormalised : {false, true}) {
      const Result r =
          run(p, targets_of(p.memory, DType::F64, p.teacher, kept, temperature, p.targets),
              CachedDistillation({.ce_weight = 0, .temperature = temperature, .renormalised = renormalised}), 1, 4);
      EXPECT_NEAR(r.statistics.loss, 0, 1e-12);
      EXPECT_NEAR(r.statistics.kl, 0, 1e-12);
      for (const double g : core::host_values<double>(r.hidden_gradient)) EXPECT_NEAR(g, 0, 1e-13);
    }
}

// All tokens kept, it is the distillation from whole logits: value, figures and gradient.
TEST(CachedDistillationObjective, WithAllTokensItIsTheWholeDivergence) {
  const Problem p = random_problem(6, 31);
  std::vector<std::int32_t> all(31);
  std::iota(all.begin(), all.end(), 0);
  const Kept kept{std::vector<std::vector<std::int32_t>>(6, all)};
  class Whole final : public core::TargetSource {
   public:
    explicit Whole(Tensor logits) : logits_(std::move(logits)) {}
    Tensor logits(std::int64_t first, std::int64_t count) override { return logits_.rows(first, count); }

   private:
    Tensor logits_;
  };
  std::vector<double> values;
  for (const auto& row : p.teacher) values.insert(values.end(), row.begin(), row.end());
  for (const double temperature : {1.0, 0.5, 2.0}) {
    Whole teacher(Tensor::from<double>(p.memory, {6, 31}, values));
    core::LossAccumulator losses(p.memory);
    Tape tape;
    const Var hidden = core::leaf(p.hidden), head = core::leaf(p.weight);
    tape.backward(core::head_loss(tape, hidden, head, p.target_tensor(),
                                  Distillation({.ce_weight = 0.2, .temperature = temperature}), &teacher,
                                  *nn::single_communicators().tensor, {.weight = 0.5, .chunk = 4}, losses));
    const LossStatistics expected = losses.read();
    const Result r = run(p, targets_of(p.memory, DType::F64, p.teacher, kept, temperature, p.targets),
                         CachedDistillation({.ce_weight = 0.2, .temperature = temperature}), 0.5, 4);
    EXPECT_NEAR(r.statistics.loss, expected.loss, 1e-12);
    EXPECT_NEAR(r.statistics.kl, expected.kl, 1e-12);
    EXPECT_NEAR(r.statistics.sum_min, expected.sum_min, 1e-12);
    EXPECT_NEAR(r.statistics.teacher_ce, expected.teacher_ce, 1e-12);
    EXPECT_EQ(r.statistics.agreement, expected.agreement);
    EXPECT_LT(relative_difference(r.hidden_gradient, hidden.slot->grad), 1e-12);
    EXPECT_LT(relative_difference(r.weight_gradient, head.slot->grad), 1e-12);
  }
}

// What a cache draws: the mean over many draws comes to the whole divergence and its gradient, as their variance says.
TEST(CachedDistillationObjective, TheMeanOverDrawsIsTheWholeDivergence) {
  constexpr std::int64_t repeats = 400, vocabulary = 25;
  const Problem one = random_problem(1, vocabulary);
  const Problem p = [&] {
    Problem many;
    many.weight = one.weight;
    many.valid = vocabulary;
    std::vector<double> hidden;
    for (std::int64_t i = 0; i < repeats; ++i) {
      hidden.insert(hidden.end(), one.hidden.data<double>(), one.hidden.data<double>() + 3);
      many.teacher.push_back(one.teacher[0]);
      many.targets.push_back(one.targets[0]);
    }
    many.hidden = Tensor::from<double>(many.memory, {repeats, 3}, hidden);
    return many;
  }();
  const auto with_draws = [&](std::int64_t draws) {
    const data::CacheContents contents{.kind = data::CacheKind::Sampled, .kept = draws, .vocabulary = vocabulary};
    data::CachedRows rows;
    rows.resize(repeats, contents);
    data::RowsMaker maker(contents);
    const std::vector<float> logits(one.teacher[0].begin(), one.teacher[0].end());
    Kept kept;
    for (std::int64_t i = 0; i < repeats; ++i) {
      maker.make(logits, one.targets[0], {3, 4}, i, rows, i);
      kept.ids.emplace_back();
      kept.shares.emplace_back();
      for (std::int64_t j = 0; j < rows.width && rows.ids[i * rows.width + j] >= 0; ++j) {
        kept.ids.back().push_back(rows.ids[i * rows.width + j]);
        kept.shares.back().push_back(rows.log_p[i * rows.width + j]);
      }
    }
    return run(p, targets_of(p.memory, DType::F64, p.teacher, kept, 1, p.targets), CachedDistillation({.ce_weight = 0}),
               1.0 / repeats, 64);
  };
  std::vector<std::int32_t> all(vocabulary);
  std::iota(all.begin(), all.end(), 0);
  const Result whole = run(
      p,
      targets_of(p.memory, DType::F64, p.teacher, {std::vector<std::vector<std::int32_t>>(repeats, all)}, 1, p.targets),
      CachedDistillation({.ce_weight = 0}), 1.0 / repeats, 64);
  for (const std::int64_t draws : {1, 8, 64}) {
    const Result r = with_draws(draws);
    double spread = 0;
    for (const core::TokenLoss& each : r.statistics.each) spread += std::pow(each.kl - whole.statistics.loss, 2);
    const double error = std::sqrt(spread) / repeats;  // of the mean
    EXPECT_NEAR(r.statistics.loss, whole.statistics.loss, 4 * error) << draws;
    EXPECT_LT(error, 4 / std::sqrt(static_cast<double>(repeats * draws)));
    EXPECT_LT(relative_difference(r.weight_gradient, whole.weight_gradient),
              4 / std::sqrt(static_cast<double>(repeats * draws)));
  }
}

// A student that is sure of kept tokens leaves little to the others: float32 has to know how little.
TEST(CachedDistillationObjective, WhatIsLeftOverIsNoRounding) {
  Problem p = random_problem(2, 3000);
  p.weight = random_tensor(p.memory, {3000, 3}, 8);
  auto* w = p.weight.mutable_data<double>();
  for (std::int64_t v = 0; v < 3; ++v)
    for (std::int64_t c = 0; c < 3; ++c) w[v * 3 + c] = 12 * p.hidden.data<double>()[c] / 3;
  for (std::int64_t c = 0; c < 3; ++c) p.hidden.mutable_data<double>()[3 + c] = p.hidden.data<double>()[c];
  for (auto* row : {&p.teacher[0], &p.teacher[1]})
    for (std::size_t v = 0; v < 3; ++v) (*row)[v] = 22;
  const Kept kept{std::vector<std::vector<std::int32_t>>(2, {0, 1, 2})};
  const CachedDistillation objective({.ce_weight = 0});
  const Result exact = run(p, targets_of(p.memory, DType::F64, p.teacher, kept, 1, p.targets), objective, 1, 2);
  const Result single =
      run(p, targets_of(p.memory, DType::F32, p.teacher, kept, 1, p.targets), objective, 1, 2, DType::F32, DType::F32);
  EXPECT_NEAR(single.statistics.loss, exact.statistics.loss, 1e-5);
  EXPECT_LE(relative_difference(single.weight_gradient, exact.weight_gradient), 2e-3);
}

TEST(CachedDistillationObjective, RefusesWhatItCannotDo) {
  const Problem p = random_problem(2, 9);
  const Kept kept{{{1, 2}, {3, 4}}, {{0.5, 0.5}, {0.25, 0.75}}};
  const SparseTargets draws = targets_of(p.memory, DType::F64, p.teacher, kept, 1, p.targets);
  const SparseTargets tempered = targets_of(p.memory, DType::F64, p.teacher, {kept.ids}, 2, p.targets);
  const auto error = [&](const SparseTargets& sparse, const CachedDistillationOptions& options) {
    return error_of([&] { run(p, sparse, CachedDistillation(options), 1, 2); });
  };
  EXPECT_EQ(error(draws, {}), "");
  EXPECT_THAT(error(draws, {.renormalised = true}), HasSubstr("draws cannot be renormalised"));
  EXPECT_THAT(error(tempered, {.temperature = 3}), HasSubstr("targets are of temperature 2, expected 3"));
  SparseTargets other = tempered;
  other.rest_tempered = Tensor();
  EXPECT_THAT(error(other, {.temperature = 2}), HasSubstr("rest_tempered"));
  EXPECT_THAT(error(targets_of(p.memory, DType::F32, p.teacher, {kept.ids}, 1, p.targets), {}), HasSubstr("log_p is"));
  EXPECT_THAT(error_of([&] { CachedDistillation({.ce_weight = 2}); }), HasSubstr("expected 0 to 1"));
  EXPECT_THAT(error_of([&] { CachedDistillation({.temperature = 0}); }), HasSubstr("a positive number"));
}

}  // namespace
}  // namespace limbeck::optim
