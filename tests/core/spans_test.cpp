#include "core/ops/spans.h"

#include <gmock/gmock.h>

#include <cmath>

#include "kernels/distillation.h"
#include "tests/support/tensors.h"

namespace limbeck::core {
namespace {

using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

const auto memory = Memory::cpu(2);
constexpr std::int64_t columns = kernels::num_span_columns;

/// Of seven tokens of the student and six of the teacher: {1,2} against {0}, {4} against {2,3,4}, an end of text.
const std::vector<std::int64_t> table = {1, 2, 0, 1, 5, 4, 1, 2, 3, 2, 6, 1, 5, 1, 0};
const std::vector<double> student_ce = {9, 0.4, 0.3, 9, 1.7, 9, 0.02}, teacher_ce = {0.5, 9, 0.1, 0.2, 0.4, 3};

Tensor losses(const std::vector<double>& ce) {
  std::vector<double> each(ce.size() * kernels::num_loss_columns, 77);
  for (std::size_t t = 0; t < ce.size(); ++t) each[t * kernels::num_loss_columns + kernels::LossCe] = ce[t];
  return Tensor::from<double>(memory, {std::ssize(ce), kernels::num_loss_columns}, each);
}

struct Found {
  std::vector<double> weights, totals;
};

Found find(const std::vector<double>& ce, double alpha, const std::vector<double>& of_teacher = teacher_ce,
           const std::vector<std::int64_t>& places = table, std::vector<double> totals = std::vector<double>(columns)) {
  Tensor sums = Tensor::from<double>(memory, {columns}, totals);
  const Tensor weights =
      span_weights(losses(ce), losses(of_teacher),
                   Tensor::from<std::int64_t>(
                       memory, {std::ssize(places) / kernels::num_span_places, kernels::num_span_places}, places),
                   alpha, sums);
  return {host_values<double>(weights), host_values<double>(sums)};
}

double divergence(double p, double q) { return p * std::log(p / q) + (1 - p) * std::log((1 - p) / (1 - q)); }

TEST(SpanWeights, FiguresAreTheFormulas) {
  std::vector<double> expected = {10, 20, 30, 40, 50, 60};
  const Found found = find(student_ce, 0.3, teacher_ce, table, expected);
  expected[kernels::SpanCount] += 3;
  expected[kernels::SpanLoss] += divergence(std::exp(-0.5), std::exp(-0.7)) +
                                 divergence(std::exp(-0.7), std::exp(-1.7)) +
                                 divergence(std::exp(-3.0), std::exp(-0.02));
  expected[kernels::SpanStudentCe] += 0.7 + 1.7 + 0.02;
  expected[kernels::SpanTeacherCe] += 0.5 + 0.7 + 3;
  expected[kernels::SpanTargets] += 4;
  expected[kernels::SpanBytes] += 7;
  for (std::size_t c = 0; c < expected.size(); ++c) EXPECT_NEAR(found.totals[c], expected[c], 1e-12) << "column " << c;
}

/// What a token weighs is what the loss gains by its cross-entropy.
TEST(SpanWeights, AreTheLossesDerivative) {
  for (const double alpha : {0.0, 0.3, 1.0}) {
    const Found found = find(student_ce, alpha);
    for (std::size_t t = 0; t < student_ce.size(); ++t) {
      constexpr double step = 1e-5;
      double gain = alpha;
      for (const int sign : {-1, 1}) {
        std::vector<double> moved = student_ce;
        moved[t] += sign * step;
        gain += (1 - alpha) * sign * find(moved, alpha).totals[kernels::SpanLoss] / (2 * step);
      }
      EXPECT_NEAR(found.weights[t], gain, 1e-7 * std::max(1.0, std::abs(gain))) << "token " << t;
    }
  }
}

/// Of a student that is the teacher there is exactly nothing to learn, however sure both are.
TEST(SpanWeights, OfTheTeacherItselfAreNothing) {
  for (const double ce : {0.0, 1e-18, 1e-9, 1e-5, 0.02, 0.7, 30.0, 800.0, 1e5}) {
    const Found found = find({ce}, 0, {ce}, {0, 1, 0, 1, 1});
    EXPECT_EQ(found.totals[kernels::SpanLoss], 0) << ce;
    EXPECT_EQ(found.weights[0], 0) << ce;
  }
}

/// Nothing overflows where one is sure of what the other is not, and the weight has the right sign. From where the
/// student is all but sure the loss goes on as a straight line.
TEST(SpanWeights, OfNearlySureModelsAreFinite) {
  for (const double own : {0.0, 1e-18, 1e-9, 1.6e-5, 1e-3, 2.0, 800.0, 1e5})
    for (const double theirs : {0.0, 1e-18, 1e-9, 1.6e-5, 1e-3, 2.0, 800.0, 1e5}) {
      SCOPED_TRACE(fmt::format("{} and {}", own, theirs));
      const Found found = find({own}, 0, {theirs}, {0, 1, 0, 1, 1});
      EXPECT_TRUE(std::isfinite(found.totals[kernels::SpanLoss]));
      EXPECT_GE(found.totals[kernels::SpanLoss], -1e-15);
      EXPECT_LE(std::abs(found.weights[0]), 1 / kernels::least_span_rest);
      EXPECT_GE(own > theirs ? found.weights[0] : 0, 0);
      EXPECT_LE(own < theirs ? found.weights[0] : 0, 0);
    }
  const auto loss = [](double ce) { return find({ce}, 0, {1.0}, {0, 1, 0, 1, 1}).totals[kernels::SpanLoss]; };
  const double edge = -std::log1p(-kernels::least_span_rest),
               slope = -find({0.0}, 0, {1.0}, {0, 1, 0, 1, 1}).weights[0];
  EXPECT_NEAR(slope, (1 - kernels::least_span_rest - std::exp(-1.0)) / kernels::least_span_rest, 1e-6);
  EXPECT_NEAR(loss(0), loss(edge) + slope * edge, 1e-12);
  EXPECT_NEAR(loss(edge), divergence(std::exp(-1.0), 1 - kernels::least_span_rest), 1e-12);
}

TEST(SpanWeights, OfNoSpanAreThoseOfCrossEntropy) {
  EXPECT_EQ(find({1, 2}, 0.25, {}, {}).weights, (std::vector<double>{0.25, 0.25}));
  EXPECT_EQ(find({1, 2}, 0.25, {}, {}).totals, std::vector<double>(columns));
  EXPECT_EQ(find({}, 0.25, {}, {}).weights, std::vector<double>());
}

TEST(SpanWeights, BadInput) {
  EXPECT_THAT([] { find({1}, 1.5); },
              ThrowsMessage<Error>("span_weights: the weight of cross-entropy is 1.5, expected 0 to 1"));
  Tensor totals = Tensor::zeros(memory, DType::F64, {columns});
  const Tensor each = losses({1, 2}), none = Tensor::zeros(memory, DType::I64, {0, kernels::num_span_places});
  EXPECT_THAT([&] { span_weights(each, each, each, 0, totals); },
              ThrowsMessage<Error>("span_weights: table is float64 [2,6], expected int64 [n,5]"));
  EXPECT_THAT([&] { span_weights(each, none, none, 0, totals); },
              ThrowsMessage<Error>("span_weights: teacher_each is int64 [0,5], expected float64 [T,6]"));
  totals = Tensor::zeros(memory, DType::F64, {2});
  EXPECT_THAT([&] { span_weights(each, each, none, 0, totals); },
              ThrowsMessage<Error>("span_weights: totals are float64 [2], expected float64 [6]"));
}

TEST(SpanTable, IsCheckedBeforeAnythingIsRead) {
  check_span_table(table, 7, 6);
  check_span_table({}, 0, 0);
  const auto error = [](std::vector<std::int64_t> places, std::int64_t tokens = 7, std::int64_t teacher_tokens = 6) {
    try {
      check_span_table(places, tokens, teacher_tokens);
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  EXPECT_THAT(error(table, 6), HasSubstr("span 2 is of tokens [6,+1) of 6"));
  EXPECT_THAT(error(table, 7, 5), HasSubstr("span 2 is of the teacher's tokens [5,+1) of 5"));
  EXPECT_THAT(error({1, 2, 0, 1, 5, 2, 1, 2, 3, 2}), HasSubstr("span 1 is of tokens [2,+1) of 7"));
  EXPECT_THAT(error({1, 0, 0, 1, 5}), HasSubstr("span 0"));
  EXPECT_THAT(error({1, 1, 0, 0, 5}), HasSubstr("span 0"));
  EXPECT_THAT(error({-1, 1, 0, 1, 5}), HasSubstr("span 0"));
  EXPECT_THAT(error({0, std::int64_t{1} << 62, 0, 1, 5}), HasSubstr("span 0"));
  EXPECT_THAT(error({0, 1}), HasSubstr("a table of 2 numbers"));
}

}  // namespace
}  // namespace limbeck::core
