#include "kernels/sorted_rows.h"

#include <algorithm>

#include "tests/kernels/cuda/on_gpu.h"

namespace limbeck::kernels {
namespace {

using namespace limbeck::testing;

struct Shape {
  std::int64_t n, columns, valid, teacher_columns, teacher_valid, offset, own;  // `own` columns from `offset` on
};
// No row, no column that counts on a side, padding, a part of the vocabulary, more columns than a block has threads.
const std::vector<Shape> shapes = {{0, 8, 8, 9, 9, 0, 8},
                                   {2, 4, 4, 3, 0, 0, 4},
                                   {3, 1, 1, 1, 1, 0, 1},
                                   {7, 33, 31, 70, 66, 0, 33},
                                   {130, 32, 30, 20, 20, 8, 16},
                                   {5, 700, 700, 300, 299, 350, 350},
                                   {3, 9000, 8998, 5000, 5000, 0, 9000}};

template <class Types>
class CudaSortedRows : public ::testing::Test {};
using Pairs = ::testing::Types<std::pair<float, float>, std::pair<double, double>, std::pair<float, bf16>>;
TYPED_TEST_SUITE(CudaSortedRows, Pairs);

TYPED_TEST(CudaSortedRows, GradientsAndDistancesAreThoseOfTheCpu) {
  using T = typename TypeParam::first_type;
  using G = typename TypeParam::second_type;
  for (const Shape& s : shapes)
    for (const bool with_gradient : {true, false}) {
      SCOPED_TRACE(::testing::Message() << s.n << " rows of " << s.columns << " and " << s.teacher_columns);
      std::vector<T> student = random_values<T>(s.n * s.columns, 1, 3), own;
      const std::vector<T> teacher = random_values<T>(s.n * s.teacher_columns, 2, 3);
      for (std::size_t i = 0; i < student.size(); i += 5) student[i] = T(0.25);  // equal ones
      for (std::int64_t i = 0; i < s.n; ++i)
        own.insert(own.end(), student.begin() + i * s.columns + s.offset,
                   student.begin() + i * s.columns + s.offset + s.own);
      std::vector<std::int32_t> targets = random_indices(s.n, 3, -1, s.valid), pair_of(targets.size(), -1);
      std::int32_t pairs = 0;
      for (std::size_t i = 0; i < targets.size(); ++i)
        if (i % 3 != 2 && targets[i] >= 0) pair_of[i] = 7 + pairs++;
      std::vector<double> student_max(targets.size()), sums(targets.size() * num_logits_sums, 1);
      for (std::int64_t i = 0; i < s.n; ++i) {
        const auto begin = student.begin() + i * s.columns, end = begin + s.valid;
        student_max[static_cast<std::size_t>(i)] = static_cast<double>(*std::max_element(begin, end));
        double& sum = sums[static_cast<std::size_t>(i * num_logits_sums + StudentSum)] = 0;
        for (auto x = begin; x != end; ++x) sum += std::exp(static_cast<double>(*x) - student_max[i]);
      }
      OnGpu<T> student_there(student), own_there(own), teacher_there(teacher);
      OnGpu<std::int32_t> targets_there(targets), pair_of_there(pair_of);
      OnGpu<double> max_there(student_max), sums_there(sums), of_rows_there(s.n * num_sorted_columns);
      const auto rows_of = [&](const T* part, const T* whole, const T* theirs, const std::int32_t* of_targets,
                               const std::int32_t* of_pairs) {
        return SortedRows<T>{.part = {.n = s.n,
                                      .columns = s.own,
                                      .num_valid = std::clamp<std::int64_t>(s.valid - s.offset, 0, s.own),
                                      .student = part,
                                      .targets = of_targets,
                                      .offset = s.offset},
                             .student = {whole, s.columns, s.valid},
                             .teacher = {theirs, s.teacher_columns, s.teacher_valid},
                             .pair_of = of_pairs,
                             .first_pair = 7};
      };
      const SortedRows<T> here = rows_of(own.data(), student.data(), teacher.data(), targets.data(), pair_of.data()),
                          there = rows_of(own_there.data(), student_there.data(), teacher_there.data(),
                                          targets_there.data(), pair_of_there.data());
      std::vector<G> gradient(own.size());
      std::vector<double> of_rows(targets.size() * num_sorted_columns);
      OnGpu<G> gradient_there(s.n * s.own);
      OnGpu<std::byte> room(sorting_room(gpu(), there));
      sorted_gradient(cpu(), here, 0.3, student_max.data(), sums.data(), 1.7, with_gradient ? gradient.data() : nullptr,
                      of_rows.data(), nullptr);
      sorted_gradient(gpu(), there, 0.3, max_there.data(), sums_there.data(), 1.7,
                      with_gradient ? gradient_there.data() : nullptr, of_rows_there.data(), room.data());
      const auto found = of_rows_there.values();
      constexpr double tolerance = std::is_same_v<T, double> ? 1e-12 : 2e-6;
      for (std::size_t i = 0; i < of_rows.size(); ++i) ASSERT_NEAR(found[i], of_rows[i], tolerance);
      if (!with_gradient) continue;
      expect_close(gradient_there.values(), gradient);
      if constexpr (std::is_same_v<T, G>)
        if (s.own == s.columns) {
          const SortedRows<T> in_place = rows_of(student_there.data(), student_there.data(), teacher_there.data(),
                                                 targets_there.data(), pair_of_there.data());
          sorted_gradient(gpu(), in_place, 0.3, max_there.data(), sums_there.data(), 1.7, student_there.data(),
                          of_rows_there.data(), room.data());
          expect_same(student_there.values(), gradient_there.values());
        }
    }
}

/// Of a student that is the teacher there is exactly nothing to learn.
TEST(CudaSortedRowsOfTheTeacher, HaveNoDistanceAndNoGradient) {
  constexpr std::int64_t n = 4, columns = 700;
  const auto logits = random_values<float>(n * columns, 1, 3);
  const std::vector<std::int32_t> targets(n, 5), pair_of = {0, 1, 2, 3};
  const std::vector<double> unused(n * num_logits_sums, 1);
  OnGpu<float> there(logits), theirs(logits), gradient_there(n * columns);
  OnGpu<std::int32_t> targets_there(targets), pair_of_there(pair_of);
  OnGpu<double> unused_there(unused), of_rows_there(n * num_sorted_columns);
  const auto rows_of = [&](const float* own, const float* teacher, const std::int32_t* of_targets,
                           const std::int32_t* of_pairs) {
    return SortedRows<float>{
        .part = {.n = n, .columns = columns, .num_valid = columns, .student = own, .targets = of_targets},
        .student = {own, columns, columns},
        .teacher = {teacher, columns, columns},
        .pair_of = of_pairs};
  };
  std::vector<float> gradient(logits.size(), 1);
  std::vector<double> of_rows(n * num_sorted_columns);
  sorted_gradient(cpu(), rows_of(logits.data(), logits.data(), targets.data(), pair_of.data()), 0, unused.data(),
                  unused.data(), 1.0, gradient.data(), of_rows.data(), nullptr);
  const SortedRows<float> on_gpu = rows_of(there.data(), theirs.data(), targets_there.data(), pair_of_there.data());
  OnGpu<std::byte> room(sorting_room(gpu(), on_gpu));
  sorted_gradient(gpu(), on_gpu, 0, unused_there.data(), unused_there.data(), 1.0, gradient_there.data(),
                  of_rows_there.data(), room.data());
  for (const auto& [found, rows] : {std::pair(gradient, of_rows), {gradient_there.values(), of_rows_there.values()}}) {
    EXPECT_EQ(found, std::vector<float>(logits.size()));
    for (std::int64_t i = 0; i < n; ++i) EXPECT_EQ(rows[i * num_sorted_columns + SortedDistance], 0);
  }
}

}  // namespace
}  // namespace limbeck::kernels
