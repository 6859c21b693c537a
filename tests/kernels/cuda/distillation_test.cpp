#include "kernels/distillation.h"

#include <limits>

#include "tests/kernels/cuda/on_gpu.h"

namespace limbeck::kernels {
namespace {

using namespace limbeck::testing;

struct Shape {
  std::int64_t n, columns, num_valid, offset;
};
// No row, no column, padding, columns that are no multiple of a vector, targets in other parts, several rounds of a
// block.
const std::vector<Shape> shapes = {{0, 8, 8, 0},     {2, 4, 0, 0},     {1, 1, 1, 0},       {5, 7, 7, 0},
                                   {130, 32, 30, 0}, {6, 64, 64, 100}, {3, 2052, 2050, 0}, {2, 9000, 9000, 0}};

/// Logits of a chunk on both devices, and the results of the passes before.
template <class T>
struct Chunk {
  Chunk(const Shape& s, bool with_teacher, double temperature)
      : shape(s),
        student(random_values<T>(s.n * s.columns, 1, 3)),
        teacher(lacking(random_values<T>(s.n * s.columns, 2, 3))),
        targets(random_indices(s.n, 3, -1, s.num_valid + s.offset + 20)),
        student_there(student),
        teacher_there(teacher),
        targets_there(targets) {
    here = {.n = s.n,
            .columns = s.columns,
            .num_valid = s.num_valid,
            .student = student.data(),
            .teacher = with_teacher ? teacher.data() : nullptr,
            .targets = targets.data(),
            .offset = s.offset,
            .temperature = temperature};
    there = here;
    there.student = student_there.data();
    there.teacher = with_teacher ? teacher_there.data() : nullptr;
    there.targets = targets_there.data();
    const auto rows = static_cast<std::size_t>(s.n);
    for (auto* results : {&student_max, &teacher_max, &index}) results->resize(rows);
    parts.resize(rows * num_gradient_sums);
    sums.resize(rows * num_logits_sums);
    logits_maxima(cpu(), here, here.student, student_max.data(), index.data());
    if (with_teacher) logits_maxima(cpu(), here, here.teacher, teacher_max.data(), index.data());
    logits_sums(cpu(), here, student_max.data(), teacher_max.data(), sums.data());
  }
  /// Some of its columns are of tokens that it lacks.
  static std::vector<T> lacking(std::vector<T> teacher) {
    for (std::size_t i = 5; i < teacher.size(); i += 11) teacher[i] = lacking_logit;
    return teacher;
  }
  Shape shape;
  std::vector<T> student, teacher;
  std::vector<std::int32_t> targets;
  OnGpu<T> student_there, teacher_there;
  OnGpu<std::int32_t> targets_there;
  LogitsRows<T> here, there;
  std::vector<double> student_max, teacher_max, index, sums, parts;
};

template <class T>
class CudaDistillation : public ::testing::Test {};
using Types = ::testing::Types<float, double>;
TYPED_TEST_SUITE(CudaDistillation, Types);

TYPED_TEST(CudaDistillation, MaximaAreThoseOfTheCpu) {
  using T = TypeParam;
  for (const Shape& shape : shapes) {
    Chunk<T> chunk(shape, false, 1);
    auto logits = chunk.student;
    for (std::size_t i = 0; i < logits.size(); ++i) {
      if (i % 2 == 0) logits[i] = T(static_cast<int>(i / 2) % 5);  // ties
      if (i % 17 == 3) logits[i] = std::numeric_limits<T>::quiet_NaN();
      if (shape.n == 6 && i < 64) logits[i] = -std::numeric_limits<T>::infinity();
    }
    std::vector<double> maximum(chunk.index.size()), index(chunk.index.size());
    logits_maxima(cpu(), chunk.here, logits.data(), maximum.data(), index.data());
    OnGpu<T> there(logits);
    OnGpu<double> maximum_there(shape.n), index_there(shape.n);
    logits_maxima(gpu(), chunk.there, there.data(), maximum_there.data(), index_there.data());
    expect_same(maximum_there.values(), maximum);
    expect_same(index_there.values(), index);
  }
}

TYPED_TEST(CudaDistillation, SumsAreThoseOfTheCpu) {
  using T = TypeParam;
  for (const Shape& shape : shapes)
    for (const bool with_teacher : {false, true})
      for (const double temperature : {1.0, 2.5}) {
        Chunk<T> chunk(shape, with_teacher, temperature);
        OnGpu<double> student_max(chunk.student_max), teacher_max(chunk.teacher_max), sums(shape.n * num_logits_sums);
        logits_sums(gpu(), chunk.there, student_max.data(), teacher_max.data(), sums.data());
        const auto values = sums.values();
        for (std::size_t i = 0; i < values.size(); ++i)
          ASSERT_NEAR(values[i], chunk.sums[i],
                      (std::is_same_v<T, double> ? 1e-12 : 2e-6) * (10 + std::abs(chunk.sums[i])))
              << "row " << i / num_logits_sums << ", sum " << i % num_logits_sums;
      }
}

template <class Types>
class CudaDistillationGradient : public ::testing::Test {};
const std::vector<Divergence> all_kinds = {Divergence::ForwardKl,     Divergence::ReverseKl,
                                           Divergence::JensenShannon, Divergence::SkewKl,
                                           Divergence::ReverseSkewKl, Divergence::TotalVariation};
using Pairs = ::testing::Types<std::pair<float, float>, std::pair<double, double>, std::pair<float, bf16>>;
TYPED_TEST_SUITE(CudaDistillationGradient, Pairs);

TYPED_TEST(CudaDistillationGradient, IsThatOfTheCpu) {
  using T = typename TypeParam::first_type;
  using G = typename TypeParam::second_type;
  for (const Shape& shape : shapes)
    for (const bool with_teacher : {false, true})
      for (const double temperature : {1.0, 2.5})
        for (const Divergence kind : with_teacher ? all_kinds : std::vector{Divergence::ForwardKl})
          for (const bool with_gradient : {true, false}) {
            Chunk<T> chunk(shape, with_teacher, temperature);
            const LossTerms terms{.ce = 0.3, .divergence = 0.7, .kind = kind, .mix = 0.3};
            std::vector<double> of_divergence(static_cast<std::size_t>(shape.n * num_divergence_sums));
            OnGpu<double> student_max(chunk.student_max), teacher_max(chunk.teacher_max), sums(chunk.sums),
                parts(shape.n * num_gradient_sums), divergence(shape.n * num_divergence_sums);
            if (!terms.needs_no_sums()) {
              divergence_sums(cpu(), chunk.here, terms, chunk.student_max.data(), chunk.teacher_max.data(),
                              chunk.sums.data(), of_divergence.data());
              divergence_sums(gpu(), chunk.there, terms, student_max.data(), teacher_max.data(), sums.data(),
                              divergence.data());
              expect_close(divergence.values(), of_divergence, std::is_same_v<T, double> ? 10 : 1e8);
            }
            const std::vector<double> scale = {0.5}, of_rows = random_values<double>(shape.n, 12, 1);
            OnGpu<double> scale_there(scale), of_rows_there(of_rows);
            const TokenWeight weight(3.4, scale.data(), of_rows.data());
            const TokenWeight weight_there(3.4, scale_there.data(), of_rows_there.data());
            std::vector<G> gradient(chunk.student.size());
            OnGpu<G> gradient_there(shape.n * shape.columns);
            logits_gradient(cpu(), chunk.here, terms, chunk.student_max.data(), chunk.teacher_max.data(),
                            chunk.sums.data(), of_divergence.data(), weight, with_gradient ? gradient.data() : nullptr,
                            chunk.parts.data());
            logits_gradient(gpu(), chunk.there, terms, student_max.data(), teacher_max.data(), sums.data(),
                            divergence.data(), weight_there, with_gradient ? gradient_there.data() : nullptr,
                            parts.data());
            if (with_gradient) expect_close(gradient_there.values(), gradient);
            const auto values = parts.values();
            for (std::size_t i = 0; i < values.size(); ++i)
              ASSERT_NEAR(values[i], chunk.parts[i], (std::is_same_v<T, double> ? 1e-13 : 2e-6) * (1 + chunk.parts[i]))
                  << "row " << i / num_gradient_sums << ", part " << i % num_gradient_sums;
            if constexpr (std::is_same_v<T, G>) {
              if (!with_gradient) continue;
              logits_gradient(gpu(), chunk.there, terms, student_max.data(), teacher_max.data(), sums.data(),
                              divergence.data(), weight_there, chunk.student_there.data(), parts.data());  // in place
              expect_same(chunk.student_there.values(), gradient_there.values());
            }
          }
}

TYPED_TEST(CudaDistillation, LossesAreThoseOfTheCpu) {
  using T = TypeParam;
  for (const Divergence kind : {Divergence::ForwardKl, Divergence::JensenShannon})
    for (const bool with_teacher : {false, true})
      for (const std::int64_t n : {0, 1, 40, 600}) {
        Chunk<T> chunk({n, 32, 32, 0}, with_teacher, 2.5);
        for (std::int32_t& target : chunk.targets) target = target < 32 ? target : -1;
        OnGpu<std::int32_t> targets(chunk.targets);
        chunk.there.targets = targets.data();
        std::vector<double> indices = chunk.index, minima(chunk.index.size() * num_gradient_sums, 0.25),
                            each(chunk.index.size() * num_loss_columns), totals{1, 2, 3, 4, 5, 6, 7, 8, 9};
        indices.insert(indices.end(), chunk.index.begin(), chunk.index.end());
        for (std::size_t i = 0; i < indices.size(); i += 3) indices[i] += 1;
        OnGpu<double> indices_there(indices), sums_there(chunk.sums), minima_there(minima), totals_there(totals),
            each_there(n * num_loss_columns);
        const LossTerms terms{.ce = 0.3, .divergence = 0.7, .kind = kind, .mix = 0.3};
        const std::vector<double> divergence = random_values<double>(n * num_divergence_sums, 9, 1);
        OnGpu<double> divergence_there(divergence);
        const std::vector<double> scale = {0.5}, of_rows = random_values<double>(n, 12, 1);
        OnGpu<double> scale_there(scale), of_rows_there(of_rows);
        add_losses(cpu(), chunk.here, terms, indices.data(), chunk.sums.data(), divergence.data(), minima.data(),
                   {3.4, scale.data(), of_rows.data()}, totals.data(), each.data());
        add_losses(gpu(), chunk.there, terms, indices_there.data(), sums_there.data(), divergence_there.data(),
                   minima_there.data(), {3.4, scale_there.data(), of_rows_there.data()}, totals_there.data(),
                   each_there.data());
        expect_close(totals_there.values(), totals, 100);
        expect_close(each_there.values(), each, 10);
      }
}

TEST(CudaNegateWhereMaximal, IsThatOfTheCpu) {
  const std::vector<double> own{1, 2, 3}, of_all{1, 5, 3};
  std::vector<double> indices{7, 8, 0};
  OnGpu<double> own_there(own), of_all_there(of_all), there(indices);
  negate_where_maximal(cpu(), own.data(), of_all.data(), indices.data(), 3);
  negate_where_maximal(gpu(), own_there.data(), of_all_there.data(), there.data(), 3);
  expect_same(there.values(), indices);
}

}  // namespace
}  // namespace limbeck::kernels
