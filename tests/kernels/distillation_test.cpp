#include "kernels/distillation.h"

#include <numeric>

#include "tests/support/bf16_values.h"

namespace limbeck::kernels {
namespace {

using limbeck::testing::all_as, limbeck::testing::expect_rounded;

constexpr std::int64_t n = 4, columns = 1301, num_valid = 1297;
const std::vector<std::int32_t> targets{3, -1, 1296, 700};

std::vector<float> random_logits(unsigned seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal(0, 2);
  std::vector<float> logits(n * columns);
  for (float& x : logits) x = normal(engine);
  // The first row is nearly sure of its target: there the gradient is a difference of two numbers near 1.
  logits[3] = 16;
  return logits;
}

/// The gradient in G, and its parts, of a student's and perhaps a teacher's logits.
template <class G, class T>
std::vector<G> gradient(const std::vector<T>& student, const std::vector<T>* teacher, double temperature,
                        Divergence kind, std::vector<double>& parts) {
  const LogitsRows<T> rows{.n = n,
                           .columns = columns,
                           .num_valid = num_valid,
                           .student = student.data(),
                           .teacher = teacher == nullptr ? nullptr : teacher->data(),
                           .targets = targets.data(),
                           .temperature = temperature};
  std::vector<double> student_max(n), teacher_max(n), index(n), sums(n * num_logits_sums);
  logits_maxima(make_cpu(1), rows, rows.student, student_max.data(), index.data());
  if (teacher != nullptr) logits_maxima(make_cpu(1), rows, rows.teacher, teacher_max.data(), index.data());
  logits_sums(make_cpu(1), rows, student_max.data(), teacher_max.data(), sums.data());
  std::vector<G> dlogits(student.size(), as<G>(77.F));
  parts.assign(n * num_gradient_sums, 77);
  const LossTerms terms{.ce = 0.6, .divergence = 0.4, .kind = kind, .mix = 0.3};
  std::vector<double> divergence(n * num_divergence_sums);
  if (teacher != nullptr && !terms.needs_no_sums())
    divergence_sums(make_cpu(1), rows, terms, student_max.data(), teacher_max.data(), sums.data(), divergence.data());
  logits_gradient(make_cpu(1), rows, terms, student_max.data(), teacher_max.data(), sums.data(), divergence.data(),
                  0.25, dlogits.data(), parts.data());
  return dlogits;
}

TEST(DistillationKernel, ABfloat16GradientIsThatOfDoubleRoundedOnce) {
  const auto student = random_logits(1), teacher = random_logits(2);
  const auto student64 = all_as<double>(student), teacher64 = all_as<double>(teacher);
  for (const auto& [has_teacher, kind] : {std::pair{false, Divergence::ForwardKl},
                                          {true, Divergence::ForwardKl},
                                          {true, Divergence::ReverseKl},
                                          {true, Divergence::JensenShannon},
                                          {true, Divergence::SkewKl},
                                          {true, Divergence::ReverseSkewKl},
                                          {true, Divergence::TotalVariation}})
    for (const double temperature : {1.0, 2.5}) {
      std::vector<double> parts, parts64, parts_float;
      const auto d = gradient<bf16>(student, has_teacher ? &teacher : nullptr, temperature, kind, parts);
      const auto in_float = gradient<float>(student, has_teacher ? &teacher : nullptr, temperature, kind, parts_float);
      const auto expected = gradient<double>(student64, has_teacher ? &teacher64 : nullptr, temperature, kind, parts64);
      expect_rounded(d, expected, 1e-6);
      EXPECT_EQ(parts, parts_float);
      for (std::size_t i = 0; i < d.size(); ++i) ASSERT_EQ(d[i].bits, as<bf16>(in_float[i]).bits) << i;
      for (std::int64_t j = 0; j < columns; ++j) EXPECT_EQ(as<float>(d[static_cast<std::size_t>(columns + j)]), 0);
      for (std::int64_t j = num_valid; j < columns; ++j) EXPECT_EQ(as<float>(d[static_cast<std::size_t>(j)]), 0);
    }
}

// A row's gradient sums to 0, for p, q and the target each sum to 1: in float64, that this is what the other test's
// reference does at its blocks' ends.
TEST(DistillationKernel, GradientsOfARowSumToZero) {
  const auto student = all_as<double>(random_logits(1)), teacher = all_as<double>(random_logits(2));
  for (const auto kind : {Divergence::ForwardKl, Divergence::ReverseKl, Divergence::JensenShannon, Divergence::SkewKl,
                          Divergence::ReverseSkewKl, Divergence::TotalVariation})
    for (const double temperature : {1.0, 2.5}) {
      std::vector<double> parts;
      const auto d = gradient<double>(student, &teacher, temperature, kind, parts);
      for (std::int64_t i = 0; i < n; ++i)
        EXPECT_NEAR(std::accumulate(d.begin() + i * columns, d.begin() + (i + 1) * columns, 0.0), 0, 1e-13);
    }
}

}  // namespace
}  // namespace limbeck::kernels
