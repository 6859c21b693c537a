// The fused head with its objectives, against the formulas written out in float64.
#include "optim/objectives.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "core/ops/head_loss.h"
#include "core/ops/linear.h"
#include "tests/support/gradient_check.h"

namespace limbeck::optim {
namespace {

using core::constant;
using core::DType;
using core::HeadOptions;
using core::leaf;
using core::LossStatistics;
using core::Memory;
using core::MemoryPtr;
using core::OnlineTeacher;
using core::Shape;
using core::Tape;
using core::Tensor;
using core::Var;
using testing::check_gradients;
using testing::random_tensor;
using testing::relative_difference;

struct Case {
  std::int64_t width = 3, teacher_width = 5, vocabulary = 7, valid = 7;
  std::vector<std::int32_t> targets;
  Tensor hidden, weight, teacher_hidden, teacher_weight;
};

Case make_case(const MemoryPtr& memory, std::vector<std::int32_t> targets, std::int64_t vocabulary = 7) {
  Case c;
  c.vocabulary = c.valid = vocabulary;
  c.targets = std::move(targets);
  const auto tokens = static_cast<std::int64_t>(c.targets.size());
  c.hidden = random_tensor(memory, {tokens, c.width}, 1);
  c.weight = random_tensor(memory, {vocabulary, c.width}, 2);
  c.teacher_hidden = random_tensor(memory, {tokens, c.teacher_width}, 3);
  c.teacher_weight = random_tensor(memory, {vocabulary, c.teacher_width}, 4);
  return c;
}

Tensor targets_of(const Case& c) {
  return Tensor::from<std::int32_t>(c.hidden.memory(), {static_cast<std::int64_t>(c.targets.size())}, c.targets);
}

std::vector<double> log_softmax(const Tensor& x, const Tensor& w, std::int64_t token, std::int64_t valid,
                                double temperature) {
  std::vector<double> z(static_cast<std::size_t>(valid), 0.0);
  for (std::int64_t v = 0; v < valid; ++v) {
    for (std::int64_t c = 0; c < x.shape()[1]; ++c)
      z[v] += x.data<double>()[token * x.shape()[1] + c] * w.data<double>()[v * x.shape()[1] + c];
    z[v] /= temperature;
  }
  double sum = 0;
  for (const double value : z) sum += std::exp(value);
  for (double& value : z) value -= std::log(sum);
  return z;
}

/// Every statistic by its definition.
LossStatistics by_definition(const Case& c, double alpha, double temperature, double weight) {
  LossStatistics s;
  for (std::size_t t = 0; t < c.targets.size(); ++t) {
    if (c.targets[t] < 0) continue;
    const auto token = static_cast<std::int64_t>(t);
    const auto q = log_softmax(c.hidden, c.weight, token, c.valid, 1);
    const auto p = log_softmax(c.teacher_hidden, c.teacher_weight, token, c.valid, 1);
    const auto qt = log_softmax(c.hidden, c.weight, token, c.valid, temperature);
    const auto pt = log_softmax(c.teacher_hidden, c.teacher_weight, token, c.valid, temperature);
    double kl = 0, kl_tempered = 0, sum_min = 0;
    for (std::size_t v = 0; v < q.size(); ++v) {
      kl += std::exp(p[v]) * (p[v] - q[v]);
      kl_tempered += std::exp(pt[v]) * (pt[v] - qt[v]);
      sum_min += std::min(std::exp(p[v]), std::exp(q[v]));
    }
    const auto target = static_cast<std::size_t>(c.targets[t]);
    s.tokens += 1;
    s.ce -= q[target];
    s.teacher_ce -= p[target];
    s.kl += kl;
    s.sum_min += sum_min;
    const bool agrees =
        std::max_element(q.begin(), q.end()) - q.begin() == std::max_element(p.begin(), p.end()) - p.begin();
    s.agreement += agrees ? 1 : 0;
    s.each.push_back({-q[target], -p[target], kl, agrees ? 1.0 : 0.0, sum_min});
    s.loss += weight * (-alpha * q[target] + (1 - alpha) * temperature * temperature * kl_tempered);
  }
  return s;
}

void expect_equal(const LossStatistics& a, const LossStatistics& b, double tolerance = 1e-11) {
  EXPECT_EQ(a.tokens, b.tokens);
  EXPECT_NEAR(a.loss, b.loss, tolerance);
  EXPECT_NEAR(a.ce, b.ce, tolerance);
  EXPECT_NEAR(a.teacher_ce, b.teacher_ce, tolerance);
  EXPECT_NEAR(a.kl, b.kl, tolerance);
  EXPECT_EQ(a.agreement, b.agreement);
  EXPECT_NEAR(a.sum_min, b.sum_min, tolerance);
  ASSERT_EQ(a.each.size(), b.each.size());
  for (std::size_t t = 0; t < a.each.size(); ++t) {
    EXPECT_NEAR(a.each[t].ce, b.each[t].ce, tolerance);
    EXPECT_NEAR(a.each[t].teacher_ce, b.each[t].teacher_ce, tolerance);
    EXPECT_NEAR(a.each[t].kl, b.each[t].kl, tolerance);
    EXPECT_EQ(a.each[t].agreement, b.each[t].agreement);
    EXPECT_NEAR(a.each[t].sum_min, b.each[t].sum_min, tolerance);
  }
}

Var run(Tape& tape, const Case& c, const Var& hidden, const Var& weight, const core::Objective& objective,
        const HeadOptions& options, LossStatistics& statistics, bool keeps_each = false) {
  OnlineTeacher teacher(c.teacher_hidden, c.teacher_weight);
  core::LossAccumulator losses(c.hidden.memory(), keeps_each);
  Var loss = core::head_loss(tape, hidden, weight, targets_of(c), objective, &teacher,
                             *nn::single_communicators().tensor, options, losses);
  statistics = losses.read();
  return loss;
}

// A head's bias is one more column of its weight, beside hidden states with a 1 more.
TEST(HeadLoss, ABiasIsAColumnOfTheWeight) {
  const auto memory = Memory::cpu(2);
  const Case c = make_case(memory, {0, -1, 6, 2, 2, -1, 5});
  const std::int64_t tokens = c.hidden.shape()[0], width = c.hidden.shape()[1], vocabulary = c.weight.shape()[0];
  const Tensor bias = testing::random_tensor(memory, {vocabulary}, 71),
               teacher_bias = testing::random_tensor(memory, {vocabulary}, 72);
  const auto with_column = [&](const Tensor& matrix, const std::function<double(std::int64_t)>& last) {
    const std::int64_t rows = matrix.shape()[0], columns = matrix.shape()[1];
    std::vector<double> values;
    for (std::int64_t i = 0; i < rows; ++i) {
      for (std::int64_t j = 0; j < columns; ++j) values.push_back(matrix.data<double>()[i * columns + j]);
      values.push_back(last(i));
    }
    return Tensor::from<double>(memory, {rows, columns + 1}, values);
  };
  const auto one = [](std::int64_t) { return 1.0; };
  const auto of = [](const Tensor& values) { return [&](std::int64_t i) { return values.data<double>()[i]; }; };
  const Distillation objective({.ce_weight = 0.4});
  const auto comm = nn::single_communicators().tensor;
  const HeadOptions options{.weight = 0.2, .chunk = 3};
  core::LossAccumulator losses(memory), expected_losses(memory);
  Tape tape;
  OnlineTeacher teacher(c.teacher_hidden, c.teacher_weight, teacher_bias);
  const Var hidden = leaf(c.hidden), weight = leaf(c.weight), own = leaf(bias);
  tape.backward(core::head_loss(tape, hidden, weight, targets_of(c), objective, &teacher, *comm, options, losses, own));
  OnlineTeacher wide_teacher(with_column(c.teacher_hidden, one), with_column(c.teacher_weight, of(teacher_bias)));
  const Var wide_hidden = leaf(with_column(c.hidden, one)), wide = leaf(with_column(c.weight, of(bias)));
  Tape other;
  other.backward(core::head_loss(other, wide_hidden, wide, targets_of(c), objective, &wide_teacher, *comm, options,
                                 expected_losses));
  expect_equal(losses.read(), expected_losses.read(), 1e-13);
  const auto expect_near = [](double found, double right) { EXPECT_NEAR(found, right, 1e-13); };
  for (std::int64_t t = 0; t < tokens; ++t)
    for (std::int64_t i = 0; i < width; ++i)
      expect_near(hidden.slot->grad.data<double>()[t * width + i],
                  wide_hidden.slot->grad.data<double>()[t * (width + 1) + i]);
  for (std::int64_t v = 0; v < vocabulary; ++v) {
    for (std::int64_t i = 0; i < width; ++i)
      expect_near(weight.slot->grad.data<double>()[v * width + i], wide.slot->grad.data<double>()[v * (width + 1) + i]);
    expect_near(own.slot->grad.data<double>()[v], wide.slot->grad.data<double>()[v * (width + 1) + width]);
  }
  const Tensor logits = core::logits_of(c.hidden, c.weight, bias);
  EXPECT_LT(testing::relative_difference(logits, core::logits_of(wide_hidden.value, wide.value)), 1e-13);
  EXPECT_THAT([&] { core::logits_of(c.hidden, c.weight, c.hidden); },
              ::testing::ThrowsMessage<core::Error>(::testing::HasSubstr("head: bias is float64")));
}

TEST(HeadLoss, StatisticsEqualTheirDefinitions) {
  for (const int threads : {1, 2}) {
    const auto memory = Memory::cpu(threads);
    for (const auto& targets : std::vector<std::vector<std::int32_t>>{{}, {3}, {-1}, {0, -1, 6, 2, 2, -1, 5}})
      for (const double temperature : {1.0, 2.5})
        for (const double alpha : {0.0, 0.3, 1.0}) {
          const Case c = make_case(memory, targets);
          Tape tape(Tape::Mode::Off);
          LossStatistics statistics;
          const Distillation objective({.ce_weight = alpha, .temperature = temperature});
          const Var loss = run(tape, c, constant(c.hidden), constant(c.weight), objective, {.weight = 0.2, .chunk = 3},
                               statistics, true);
          expect_equal(statistics, by_definition(c, alpha, temperature, 0.2));
          EXPECT_EQ(core::host_value(loss.value), statistics.loss);
        }
  }
}

TEST(HeadLoss, PaddedVocabularyIsMaskedOnBothSides) {
  const auto memory = Memory::cpu(1);
  Case c = make_case(memory, {0, 4, -1, 2});
  c.valid = 5;
  Tape tape;
  LossStatistics statistics;
  const Var weight = leaf(c.weight);
  const Var loss = run(tape, c, leaf(c.hidden), weight, Distillation({.ce_weight = 0.5, .temperature = 2}),
                       {.weight = 0.5, .chunk = 2, .valid_vocabulary = 5}, statistics, true);
  expect_equal(statistics, by_definition(c, 0.5, 2, 0.5));
  EXPECT_EQ(core::host_values<double>(weight.slot->grad.rows(5, 2)), std::vector<double>(6, 0.0));
  tape.backward(loss);
}

// The upstream gradient is 1 by contract, so check_gradients (which weights outputs) does not apply.
void check_head_gradients(const Case& c, const core::Objective& objective, const HeadOptions& options) {
  const auto value = [&](const Tensor& hidden, const Tensor& weight) {
    Tape off(Tape::Mode::Off);
    LossStatistics statistics;
    return core::host_value(run(off, c, constant(hidden), constant(weight), objective, options, statistics).value);
  };
  Tape tape;
  const Var hidden = leaf(c.hidden), weight = leaf(c.weight);
  LossStatistics statistics;
  const Var loss = run(tape, c, hidden, weight, objective, options, statistics);
  tape.backward(loss);
  constexpr double step = 1e-5;
  for (const bool of_weight : {false, true}) {
    const Tensor& at = of_weight ? c.weight : c.hidden;
    const Tensor& gradient = (of_weight ? weight : hidden).slot->grad;
    ASSERT_EQ(gradient.shape(), at.shape());
    for (std::int64_t i = 0; i < at.numel(); ++i) {
      const auto moved = [&](double by) {
        Tensor x = at.clone();
        x.mutable_data<double>()[i] += by;
        return of_weight ? value(c.hidden, x) : value(x, c.weight);
      };
      ASSERT_NEAR(gradient.data<double>()[i], (moved(step) - moved(-step)) / (2 * step), 1e-8) << of_weight << i;
    }
  }
}

TEST(HeadLoss, GradientsEqualDifferences) {
  const auto memory = Memory::cpu(1);
  for (const auto& targets : std::vector<std::vector<std::int32_t>>{{}, {1}, {-1, -1}, {0, -1, 6, 2, 2}}) {
    const Case c = make_case(memory, targets);
    check_head_gradients(c, LanguageModelling(), {.weight = 0.3, .chunk = 2});
    check_head_gradients(c, Distillation({.ce_weight = 0.3, .temperature = 1}), {.weight = 0.3, .chunk = 2});
    check_head_gradients(c, Distillation({.ce_weight = 0.3, .temperature = 3}), {.weight = 0.3, .chunk = 4});
    check_head_gradients(c, Distillation({.ce_weight = 0, .temperature = 1}),
                         {.weight = 1, .chunk = 9, .valid_vocabulary = 7});
  }
}

TEST(HeadLoss, DoesNotDependOnTheChunkAndAddsToTheSlots) {
  const auto memory = Memory::cpu(1);
  const Case c = make_case(memory, {0, -1, 6, 2, 2});
  const auto gradients = [&](std::int64_t chunk, double preset) {
    Tape tape;
    const Var hidden = leaf(c.hidden), weight = leaf(c.weight);
    for (const Var* v : {&hidden, &weight})
      if (preset != 0) {
        Tensor p = core::empty_like(v->value);
        std::fill_n(p.mutable_data<double>(), p.numel(), preset);
        core::accumulate(v->slot, p);
      }
    LossStatistics statistics;
    tape.backward(run(tape, c, hidden, weight, Distillation({}), {.chunk = chunk}, statistics));
    return std::pair{hidden.slot->grad, weight.slot->grad};
  };
  const auto whole = gradients(5, 0);
  const auto parts = gradients(1, 2);
  for (const auto& [a, b] : {std::pair{whole.first, parts.first}, std::pair{whole.second, parts.second}})
    for (std::int64_t i = 0; i < a.numel(); ++i) EXPECT_NEAR(a.data<double>()[i] + 2, b.data<double>()[i], 1e-13);
}

/// A token's row weight is a weight of its own: gradients are the sum of what each token alone gives, times it.
TEST(HeadLoss, RowWeightsAreOfTheirTokens) {
  const auto memory = Memory::cpu(2);
  const Case c = make_case(memory, {0, -1, 6, 2, 5});
  const std::vector<double> row_weights = {0.5, 7, -2, 0, 1.25};
  const auto tokens = std::ssize(row_weights);
  const auto comm = nn::single_communicators().tensor;
  const Distillation objective({.ce_weight = 0.4, .temperature = 1.5, .divergence = kernels::Divergence::ReverseKl});
  const auto gradients_of = [&](const std::vector<std::int32_t>& targets, HeadOptions options) {
    core::LossAccumulator losses(memory);
    Tape tape;
    OnlineTeacher teacher(c.teacher_hidden, c.teacher_weight);
    const Var hidden = leaf(c.hidden), weight = leaf(c.weight);
    tape.backward(core::head_loss(tape, hidden, weight, Tensor::from<std::int32_t>(memory, {tokens}, targets),
                                  objective, &teacher, *comm, options, losses));
    std::vector<double> all = {losses.read().loss};
    for (const Var* var : {&hidden, &weight})
      for (const double g : core::host_values<double>(var->slot->grad)) all.push_back(g);
    return all;
  };
  const double half = 0.5;
  const Tensor scale = Tensor::from<double>(memory, {1}, {&half, 1});
  std::vector<double> expected;
  for (std::size_t t = 0; t < row_weights.size(); ++t) {
    std::vector<std::int32_t> alone(row_weights.size(), -1);
    alone[t] = c.targets[t];
    const std::vector<double> part = gradients_of(alone, {.weight = 0.2 * half});
    expected.resize(part.size());
    for (std::size_t i = 0; i < part.size(); ++i) expected[i] += row_weights[t] * part[i];
  }
  for (const std::int64_t chunk : {2, 5}) {
    const std::vector<double> found =
        gradients_of(c.targets, {.weight = 0.2,
                                 .scale = scale,
                                 .row_weights = Tensor::from<double>(memory, {tokens}, row_weights),
                                 .chunk = chunk});
    for (std::size_t i = 0; i < found.size(); ++i) EXPECT_NEAR(found[i], expected[i], 1e-14) << i;
  }
  EXPECT_THAT([&] { gradients_of(c.targets, {.row_weights = scale}); },
              ::testing::ThrowsMessage<core::Error>(::testing::HasSubstr("head_loss: row_weights")));
}

TEST(HeadLoss, Float32AgreesWithFloat64) {
  const auto memory = Memory::cpu(1);
  std::vector<std::int32_t> targets(130);
  for (std::size_t i = 0; i < targets.size(); ++i) targets[i] = i % 7 == 0 ? -1 : static_cast<std::int32_t>(i * 11);
  const Case c = make_case(memory, targets, 1501);
  const auto compute = [&](DType dtype) {
    Case d = c;
    for (Tensor* t : {&d.hidden, &d.weight, &d.teacher_hidden, &d.teacher_weight}) *t = t->to(dtype);
    Tape tape;
    LossStatistics statistics;
    const Var hidden = leaf(d.hidden), weight = leaf(d.weight);
    tape.backward(run(tape, d, hidden, weight, Distillation({.ce_weight = 0.1, .temperature = 1}),
                      {.weight = 0.01, .chunk = 64}, statistics));
    return std::tuple{statistics, hidden.slot->grad, weight.slot->grad};
  };
  const auto [exact, dx, dw] = compute(DType::F64);
  const auto [rounded, dx32, dw32] = compute(DType::F32);
  expect_equal(rounded, exact, 2e-4);
  EXPECT_LE(relative_difference(dx32, dx), 2e-6);
  EXPECT_LE(relative_difference(dw32, dw), 2e-6);
}

TEST(HeadLoss, OfEqualModelsHasNoDivergence) {
  const auto memory = Memory::cpu(1);
  Case c = make_case(memory, {0, 3, 6});
  c.teacher_hidden = c.hidden;
  c.teacher_weight = c.weight;
  Tape tape;
  LossStatistics s;
  const Var hidden = leaf(c.hidden);
  tape.backward(run(tape, c, hidden, constant(c.weight), Distillation({.ce_weight = 0}), {}, s));
  EXPECT_NEAR(s.kl, 0, 1e-14);
  EXPECT_EQ(s.agreement, 3);
  EXPECT_NEAR(s.sum_min, 3, 1e-14);
  EXPECT_EQ(s.ce, s.teacher_ce);
  for (const double g : core::host_values<double>(hidden.slot->grad)) EXPECT_LE(std::abs(g), 1e-15);
}

TEST(HeadLoss, TiedTopChoicesGoToTheLowerIndex) {
  const auto memory = Memory::cpu(1);
  Case c = make_case(memory, {0});
  c.hidden = Tensor::from<double>(memory, {1, 3}, std::vector<double>{1, 0, 0});
  c.weight.fill_zero();  // seven equal logits: index 0
  c.teacher_hidden.fill_zero();
  Tape tape(Tape::Mode::Off);
  LossStatistics s;
  run(tape, c, constant(c.hidden), constant(c.weight), Distillation({}), {}, s);
  EXPECT_EQ(s.agreement, 1);
  EXPECT_NEAR(s.ce, std::log(7.0), 1e-15);
}

/// Of a distillation's forward and backward, beside what they are given.
std::int64_t peak_bytes(std::size_t tokens, std::int64_t vocabulary, std::int64_t chunk, bool is_head_trained) {
  const auto memory = Memory::cpu(1);
  const Case c = make_case(memory, std::vector<std::int32_t>(tokens, 1), vocabulary);
  memory->reset_peak();
  const auto before = memory->statistics().used_bytes;
  Tape tape;
  LossStatistics s;
  const Var head = is_head_trained ? leaf(c.weight) : constant(c.weight);
  tape.backward(run(tape, c, leaf(c.hidden), head, Distillation({}), {.chunk = chunk}, s));
  return memory->statistics().peak_bytes - before;
}

TEST(HeadLoss, MemoryDoesNotGrowWithTokensTimesVocabulary) {
  const auto peak = [](std::size_t tokens) { return peak_bytes(tokens, 4001, 16, /*is_head_trained=*/true); };
  // From 64 to 640 tokens: only [T,C] numbers more, where the logits would be 18 MB more.
  EXPECT_LE(peak(640) - peak(64), 2 * 576 * 3 * 8 + 8192);
}

TEST(HeadLoss, OfALargeVocabularyMemoryFollowsTheChunk) {
  constexpr std::int64_t vocabulary = 262144;  // Gemma's
  const auto peak = [](std::size_t tokens, std::int64_t chunk) {
    return peak_bytes(tokens, vocabulary, chunk, /*is_head_trained=*/false);
  };
  const std::int64_t row = vocabulary * 8;  // a token's logits
  // Student's and teacher's, their gradient in the place of one; all logits of 32 tokens would be 134 MB.
  const std::int64_t small = peak(32, 4), large = peak(32, 8);
  EXPECT_LE(small, 3 * 4 * row);
  EXPECT_GE(large - small, 1 * 4 * row);
  EXPECT_LE(large - small, 3 * 4 * row);
  EXPECT_LE(peak(64, 4) - small, row / 8);
}

TEST(HeadLoss, RefusesWhatItCannotDo) {
  const auto memory = Memory::cpu(1);
  const Case c = make_case(memory, {0, 1});
  LossStatistics s;
  Tape tape;
  const auto comm = nn::single_communicators().tensor;
  core::LossAccumulator losses(memory);
  const Var loss = run(tape, c, leaf(c.hidden), leaf(c.weight), LanguageModelling(), {}, s);
  core::accumulate(loss.slot, Tensor::from<double>(memory, {}, std::vector<double>{0.5}));
  EXPECT_THROW(tape.run(), core::Error);
  EXPECT_THROW(core::head_loss(tape, leaf(c.hidden), leaf(c.weight), targets_of(c), Distillation({}), nullptr, *comm,
                               {}, losses),
               core::Error);
  EXPECT_THROW(core::head_loss(tape, leaf(c.hidden), leaf(c.weight), targets_of(c).rows(0, 1), LanguageModelling(),
                               nullptr, *comm, {}, losses),
               core::Error);
  EXPECT_THROW(Distillation({.ce_weight = 1.5}), core::Error);
  EXPECT_THROW(Distillation({.temperature = 0}), core::Error);
}

}  // namespace
}  // namespace limbeck::optim
