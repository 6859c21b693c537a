// What sorted distributions differ by, through the head, against the formula written out and central differences.
#include "optim/sorted_distillation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>

#include "core/ops/paired_teacher.h"
#include "core/ops/tensor_exchange.h"
#include "core/slice.h"
#include "kernels/sorted_rows.h"
#include "kernels/spans.h"
#include "optim/objectives.h"
#include "parallel/axes/communicators.h"
#include "tests/support/gradient_check.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/thread_ranks.h"

namespace limbeck::optim {
namespace {

using core::DType;
using core::Memory;
using core::Tape;
using core::Tensor;
using core::Var;
using testing::error_of;
using ::testing::HasSubstr;
using testing::random_tensor;
using testing::relative_difference;

const auto memory = Memory::cpu(1);

/// Six tokens of the student, of which the second, the third and the last have one of five of the teacher.
struct Problem {
  std::int64_t vocabulary = 13, valid = 11, teacher_vocabulary = 19, teacher_valid = 17;
  std::vector<std::int32_t> targets = {4, 0, 10, -1, 2, 7};
  std::vector<std::int64_t> table = {1, 1, 4, 1, 3, 2, 1, 0, 1, 3, 5, 1, 2, 1, 3};
  Tensor hidden = random_tensor(memory, {6, 3}, 1), head, teacher_hidden = random_tensor(memory, {5, 4}, 3),
         teacher_head;

  Problem() { cut(vocabulary, teacher_vocabulary); }
  void cut(std::int64_t own, std::int64_t theirs) {
    vocabulary = own;
    valid = own - 2;
    teacher_vocabulary = theirs;
    teacher_valid = theirs - 2;
    head = random_tensor(memory, {own, 3}, 2);
    teacher_head = random_tensor(memory, {theirs, 4}, 4);
    for (std::int32_t& target : targets) target = std::min(target, static_cast<std::int32_t>(valid - 1));
  }
  core::PairedTeacher teacher(const Tensor& part_of_head, const Tensor& totals, DType dtype = DType::F64) const {
    return {teacher_hidden.to(dtype),
            part_of_head.to(dtype),
            {},
            table,
            6,
            {.student = {vocabulary, valid}, .teacher = {teacher_vocabulary, teacher_valid}},
            totals};
  }
};

std::vector<double> sorted_probabilities(const Tensor& hidden, const Tensor& head, std::int64_t row,
                                         std::int64_t valid) {
  const std::int64_t width = hidden.shape()[1];
  std::vector<double> p;
  double sum = 0;
  for (std::int64_t v = 0; v < valid; ++v) {
    double z = 0;
    for (std::int64_t c = 0; c < width; ++c)
      z += hidden.data<double>()[row * width + c] * head.data<double>()[v * width + c];
    sum += p.emplace_back(std::exp(z));
  }
  for (double& x : p) x /= sum;
  std::sort(p.begin(), p.end(), std::greater<>());
  return p;
}

double distance_of(const Problem& p) {
  double distance = 0;
  for (std::size_t i = 0; i < p.table.size(); i += kernels::num_span_places) {
    auto q = sorted_probabilities(p.hidden, p.head, p.table[i + kernels::SpanFirst], p.valid);
    auto t =
        sorted_probabilities(p.teacher_hidden, p.teacher_head, p.table[i + kernels::SpanTeacherFirst], p.teacher_valid);
    q.resize(std::max(q.size(), t.size()));
    t.resize(q.size());
    for (std::size_t k = 0; k < q.size(); ++k) distance += std::abs(q[k] - t[k]);
  }
  return distance;
}

struct Result {
  double loss, pairs, distance;
  core::LossStatistics statistics;
  Tensor hidden_gradient, head_gradient;
};

/// The loss is what the gradients are of.
Result run(const Problem& p, double alpha, std::int64_t chunk = 0, DType hidden_dtype = DType::F64,
           DType dtype = DType::F64) {
  Tensor totals = Tensor::zeros(memory, DType::F64, {kernels::num_sorted_columns});
  core::PairedTeacher teacher = p.teacher(p.teacher_head, totals, hidden_dtype);
  core::LossAccumulator losses(memory, /*keeps_each=*/true);
  Tape tape;
  const Var hidden = core::leaf(p.hidden.to(hidden_dtype)), head = core::leaf(p.head.to(dtype));
  const Var loss = core::head_loss(tape, hidden, head, Tensor::from<std::int32_t>(memory, {6}, p.targets),
                                   SortedDistillation(alpha), &teacher, *nn::single_communicators().tensor,
                                   {.weight = 0.3, .chunk = chunk, .valid_vocabulary = p.valid}, losses);
  const double of_loss = losses.read().loss;
  tape.backward(loss);
  const double distance = totals.data<double>()[kernels::SortedDistance];
  return {of_loss + 0.3 * (1 - alpha) * distance,
          totals.data<double>()[kernels::SortedPairs],
          distance,
          losses.read(),
          hidden.slot->grad,
          head.slot->grad};
}

TEST(SortedDistillation, IsTheFormula) {
  for (const auto& [own, theirs] : std::vector<std::pair<std::int64_t, std::int64_t>>{{13, 19}, {19, 13}, {3, 40}}) {
    Problem p;
    p.cut(own, theirs);
    for (const std::int64_t chunk : {0, 1, 2, 4}) {
      const Result result = run(p, 0.2, chunk);
      EXPECT_EQ(result.pairs, 3);
      EXPECT_NEAR(result.distance, distance_of(p), 1e-12);
      EXPECT_EQ(result.statistics.tokens, 5);
      EXPECT_NEAR(result.statistics.loss, 0.3 * 0.2 * result.statistics.ce, 1e-12);
    }
  }
}

TEST(SortedDistillation, GradientsAreTheLossesDerivatives) {
  for (const double alpha : {0.0, 0.2, 1.0}) {
    Problem p;
    const Result result = run(p, alpha, 4);
    for (const auto& [x, gradient] : {std::pair(&p.hidden, &result.hidden_gradient), {&p.head, &result.head_gradient}})
      for (std::int64_t i = 0; i < x->numel(); ++i) {
        constexpr double step = 1e-6;
        double& value = x->mutable_data<double>()[i];
        const double before = value;
        value = before + step;
        const double above = run(p, alpha).loss;
        value = before - step;
        const double below = run(p, alpha).loss;
        value = before;
        ASSERT_NEAR(gradient->data<double>()[i], (above - below) / (2 * step), 1e-8) << "alpha " << alpha << ", " << i;
      }
  }
}

/// Where the vocabulary is cut over ranks, which need not be evenly.
TEST(SortedDistillation, IsOneHoweverTheVocabularyIsCut) {
  const Problem p;
  const Result whole = run(p, 0.2);
  for (const int ranks : {2, 3})
    testing::run_ranks(ranks, [&](testing::RankWorld& world) {
      const auto comm = parallel::make_tensor_comm(world.comm);
      const core::Slice mine = core::slice_of(p.vocabulary, world.rank, world.size),
                        theirs = core::slice_of(p.teacher_vocabulary, world.rank, world.size);
      Tensor totals = Tensor::zeros(memory, DType::F64, {kernels::num_sorted_columns});
      core::PairedTeacher teacher = p.teacher(p.teacher_head.rows(theirs.first, theirs.count), totals);
      core::LossAccumulator losses(memory);
      Tape tape;
      const Var hidden = core::leaf(p.hidden.clone()), head = core::leaf(p.head.rows(mine.first, mine.count).clone());
      tape.backward(core::head_loss(
          tape, core::enter(tape, hidden, *comm), head, Tensor::from<std::int32_t>(memory, {6}, p.targets),
          SortedDistillation(0.2), &teacher, *comm,
          {.weight = 0.3, .chunk = 4, .vocabulary_offset = mine.first, .valid_vocabulary = p.valid}, losses));
      EXPECT_NEAR(losses.read().loss, whole.statistics.loss, 1e-12);
      EXPECT_NEAR(totals.data<double>()[kernels::SortedDistance], whole.distance, 1e-12);
      EXPECT_LT(relative_difference(hidden.slot->grad, whole.hidden_gradient), 1e-12);
      EXPECT_LT(relative_difference(head.slot->grad, whole.head_gradient.rows(mine.first, mine.count)), 1e-12);
    });
}

TEST(SortedDistillation, NarrowTypesAreNear) {
  const Problem p;
  const Result whole = run(p, 0.2);
  for (const auto& [hidden, head, tolerance] :
       {std::tuple(DType::F32, DType::F32, 1e-5), {DType::BF16, DType::F32, 3e-2}}) {
    const Result result = run(p, 0.2, 0, hidden, head);
    EXPECT_NEAR(result.distance, whole.distance, tolerance * whole.distance);
    EXPECT_LT(relative_difference(result.head_gradient.to(DType::F64), whole.head_gradient), tolerance);
  }
}

TEST(SortedDistillation, EqualLogitsHaveADistanceToo) {
  Problem p;
  p.head = Tensor::zeros(memory, DType::F64, {p.vocabulary, 3});
  EXPECT_NEAR(run(p, 0).distance, distance_of(p), 1e-12);
}

TEST(SortedDistillation, WithoutPairsIsCrossEntropy) {
  Problem p;
  p.table = {};
  const Result none = run(p, 1, 2);
  EXPECT_EQ(none.pairs, 0);
  EXPECT_EQ(none.distance, 0);
  core::LossAccumulator losses(memory), same(memory);
  Tape tape;
  const Tensor targets = Tensor::from<std::int32_t>(memory, {6}, p.targets);
  const Var hidden = core::leaf(p.hidden.clone()), head = core::leaf(p.head.clone());
  const core::HeadOptions options{.weight = 0.3, .valid_vocabulary = p.valid};
  tape.backward(core::head_loss(tape, hidden, head, targets, LanguageModelling(), nullptr,
                                *nn::single_communicators().tensor, options, losses));
  EXPECT_LT(relative_difference(none.head_gradient, head.slot->grad), 1e-13);
  EXPECT_NEAR(none.loss, losses.read().loss, 1e-13);
  Tape off(Tape::Mode::Off);
  core::head_loss(off, hidden, head, targets, SortedDistillation(0.2), nullptr, *nn::single_communicators().tensor,
                  options, same);
  EXPECT_EQ(same.read().loss, losses.read().loss);
}

TEST(SortedDistillation, BadInput) {
  EXPECT_THAT(error_of([] { SortedDistillation objective(1.5); }),
              HasSubstr("the weight of cross-entropy is 1.5, expected 0 to 1"));
  Problem p;
  p.teacher_valid = 20;
  EXPECT_THAT(error_of([&] { run(p, 0.2); }), HasSubstr("expected 19 columns, of which 20 count"));
  p = Problem();
}

}  // namespace
}  // namespace limbeck::optim
