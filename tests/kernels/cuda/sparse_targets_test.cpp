#include "kernels/sparse_targets.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "tests/kernels/cuda/on_gpu.h"

namespace limbeck::kernels {
namespace {

using namespace limbeck::testing;

struct Shape {
  std::int64_t n, columns, num_valid, offset, width;
};
// No row, no column, padding, kept tokens of other parts, more of them than a block has threads, and all that there
// are.
const std::vector<Shape> shapes = {{0, 8, 8, 0, 3},         {2, 4, 0, 0, 2},       {1, 1, 1, 0, 1},
                                   {5, 7, 7, 0, 7},         {130, 32, 30, 0, 4},   {6, 64, 64, 100, 40},
                                   {3, 2052, 2050, 0, 700}, {2, 9000, 9000, 0, 64}};

template <class T>
struct Values {
  Values(const Shape& s, SparseKind kind)
      : shape(s),
        student(random_values<T>(s.n * s.columns, 1, 3)),
        targets(random_indices(s.n, 3, -1, s.num_valid + s.offset + 20)),
        ids(static_cast<std::size_t>(s.n * s.width), -1),
        log_p(ids.size()),
        tempered(ids.size()),
        rest(static_cast<std::size_t>(s.n)),
        rest_tempered(rest.size()),
        loss(random_values<T>(s.n, 5, 2)),
        likeliest(random_indices(s.n, 6, 0, s.num_valid + s.offset + 1)) {
    const std::int64_t vocabulary = s.num_valid + s.offset + (s.offset > 0 ? 50 : 0);
    for (std::int64_t i = 0; i < s.n; ++i) {
      std::vector<std::int32_t> all(static_cast<std::size_t>(vocabulary));
      std::iota(all.begin(), all.end(), 0);
      std::shuffle(all.begin(), all.end(), std::mt19937(static_cast<unsigned>(i)));
      const std::int64_t used = std::min<std::int64_t>(vocabulary, i % 3 == 2 ? s.width / 2 : s.width);
      std::sort(all.begin(), all.begin() + used);
      for (std::int64_t j = 0; j < used; ++j) {
        const std::int64_t at = i * s.width + j;
        ids[at] = all[j];
        const double p = 0.9 / static_cast<double>(used) * (1 + 0.5 * std::sin(static_cast<double>(j)));
        log_p[at] = static_cast<T>(kind == SparseKind::Sampled ? 1.0 / static_cast<double>(used) : std::log(p));
        tempered[at] = static_cast<T>(kind == SparseKind::Sampled ? log_p[at] : std::log(0.8 * p));
      }
      rest[i] = i % 4 == 1 && kind != SparseKind::Sampled ? -std::numeric_limits<T>::infinity() : T(-2.2);
      rest_tempered[i] = T(-1.3);
    }
  }
  Shape shape;
  std::vector<T> student;
  std::vector<std::int32_t> targets, ids;
  std::vector<T> log_p, tempered, rest, rest_tempered, loss;
  std::vector<std::int32_t> likeliest;
};

/// Values on both devices, and the results of the passes before.
template <class T>
struct Chunk : Values<T> {
  using Values<T>::student, Values<T>::targets, Values<T>::ids, Values<T>::log_p, Values<T>::tempered, Values<T>::rest;
  using Values<T>::rest_tempered, Values<T>::loss, Values<T>::likeliest;
  Chunk(const Shape& s, SparseKind kind, double temperature) : Values<T>(s, kind) {
    here.logits.n = s.n;
    here.logits.columns = s.columns;
    here.logits.num_valid = s.num_valid;
    here.logits.student = student.data();
    here.logits.targets = targets.data();
    here.logits.offset = s.offset;
    here.logits.temperature = temperature;
    here.kind = kind;
    here.width = s.width;
    here.ids = ids.data();
    here.plain = {log_p.data(), rest.data()};
    here.tempered = temperature == 1 ? here.plain : SparseSide<T>{tempered.data(), rest_tempered.data()};
    here.likeliest = likeliest.data();
    here.target_loss = loss.data();
    there = here;
    there.logits.student = student_there.data();
    there.logits.targets = targets_there.data();
    there.ids = ids_there.data();
    there.plain = {log_p_there.data(), rest_there.data()};
    there.tempered = temperature == 1 ? there.plain : SparseSide<T>{tempered_there.data(), rest_tempered_there.data()};
    there.likeliest = likeliest_there.data();
    there.target_loss = loss_there.data();
    student_max.resize(static_cast<std::size_t>(s.n));
    index.resize(student_max.size());
    parts.resize(student_max.size() * num_gradient_sums);
    sums.resize(student_max.size() * num_sparse_sums);
    kept.resize(ids.size());
    logits_maxima(cpu(), here.logits, here.logits.student, student_max.data(), index.data());
    sparse_sums(cpu(), here, student_max.data(), kept.data(), sums.data());
  }
  OnGpu<T> student_there{student};
  OnGpu<std::int32_t> targets_there{targets}, ids_there{ids}, likeliest_there{likeliest};
  OnGpu<T> log_p_there{log_p}, tempered_there{tempered}, rest_there{rest}, rest_tempered_there{rest_tempered},
      loss_there{loss};
  SparseRows<T> here, there;
  std::vector<double> student_max, index, sums, parts;
  std::vector<T> kept;
};

template <class F>
void for_each_case(F f) {
  for (const Shape& shape : shapes)
    for (const SparseKind kind : {SparseKind::Ghost, SparseKind::Renormalised, SparseKind::Sampled})
      for (const double temperature : {1.0, 2.5}) f(shape, kind, temperature);
}

template <class T>
class CudaSparseTargets : public ::testing::Test {};
using Types = ::testing::Types<float, double>;
TYPED_TEST_SUITE(CudaSparseTargets, Types);

TYPED_TEST(CudaSparseTargets, SumsAreThoseOfTheCpu) {
  using T = TypeParam;
  for_each_case([](const Shape& shape, SparseKind kind, double temperature) {
    Chunk<T> chunk(shape, kind, temperature);
    OnGpu<double> student_max(chunk.student_max), sums(shape.n * num_sparse_sums);
    OnGpu<T> kept(shape.n * shape.width);
    sparse_sums(gpu(), chunk.there, student_max.data(), kept.data(), sums.data());
    const auto values = sums.values();
    for (std::size_t i = 0; i < values.size(); ++i)
      ASSERT_NEAR(values[i], chunk.sums[i], (std::is_same_v<T, double> ? 1e-12 : 2e-6) * (10 + std::abs(chunk.sums[i])))
          << "row " << i / num_sparse_sums << ", sum " << i % num_sparse_sums;
    expect_same(kept.values(), chunk.kept);
  });
}

template <class Types>
class CudaSparseTargetsGradient : public ::testing::Test {};
using Pairs = ::testing::Types<std::pair<float, float>, std::pair<double, double>, std::pair<float, bf16>>;
TYPED_TEST_SUITE(CudaSparseTargetsGradient, Pairs);

TYPED_TEST(CudaSparseTargetsGradient, IsThatOfTheCpu) {
  using T = typename TypeParam::first_type;
  using G = typename TypeParam::second_type;
  for_each_case([](const Shape& shape, SparseKind kind, double temperature) {
    for (const bool with_gradient : {true, false}) {
      Chunk<T> chunk(shape, kind, temperature);
      // As they are of the whole vocabulary: no row is without a kept token or one that is not.
      for (std::size_t i = 0; i < chunk.sums.size(); ++i)
        if (i % num_sparse_sums != SparseTarget) chunk.sums[i] += 0.25;
      OnGpu<double> student_max(chunk.student_max), sums(chunk.sums), parts(shape.n * num_gradient_sums);
      OnGpu<T> kept(chunk.kept);
      std::vector<G> gradient(chunk.student.size());
      OnGpu<G> gradient_there(shape.n * shape.columns);
      sparse_gradient(cpu(), chunk.here, chunk.kept.data(), chunk.student_max.data(), chunk.sums.data(), 0.3, 1.7,
                      with_gradient ? gradient.data() : nullptr, chunk.parts.data());
      sparse_gradient(gpu(), chunk.there, kept.data(), student_max.data(), sums.data(), 0.3, 1.7,
                      with_gradient ? gradient_there.data() : nullptr, parts.data());
      if (with_gradient) expect_close(gradient_there.values(), gradient);
      const auto values = parts.values();
      for (std::size_t i = 0; i < values.size(); ++i)
        ASSERT_NEAR(values[i], chunk.parts[i],
                    (std::is_same_v<T, double> ? 1e-12 : 4e-6) * (1 + std::abs(chunk.parts[i])))
            << "row " << i / num_gradient_sums << ", part " << i % num_gradient_sums;
      if constexpr (std::is_same_v<T, G>) {
        if (!with_gradient) continue;
        sparse_gradient(gpu(), chunk.there, kept.data(), student_max.data(), sums.data(), 0.3, 1.7,
                        chunk.student_there.data(), parts.data());  // in place
        expect_same(chunk.student_there.values(), gradient_there.values());
      }
    }
  });
}

TYPED_TEST(CudaSparseTargets, LossesAreThoseOfTheCpu) {
  using T = TypeParam;
  for (const SparseKind kind : {SparseKind::Ghost, SparseKind::Renormalised, SparseKind::Sampled})
    for (const std::int64_t n : {0, 1, 40, 600}) {
      Chunk<T> chunk({n, 32, 32, 0, 5}, kind, 2.5);
      for (std::int32_t& target : chunk.targets) target = target < 32 ? target : -1;
      OnGpu<std::int32_t> targets(chunk.targets);
      chunk.there.logits.targets = targets.data();
      sparse_sums(cpu(), chunk.here, chunk.student_max.data(), chunk.kept.data(), chunk.sums.data());
      std::vector<double> minima(chunk.index.size() * num_gradient_sums, 0.25),
          each(chunk.index.size() * num_loss_columns), totals{1, 2, 3, 4, 5, 6, 7, 8, 9};
      OnGpu<double> indices_there(chunk.index), sums_there(chunk.sums), minima_there(minima), totals_there(totals),
          each_there(n * num_loss_columns);
      add_sparse_losses(cpu(), chunk.here, chunk.index.data(), chunk.sums.data(), minima.data(), 0.3, 1.7,
                        totals.data(), each.data());
      add_sparse_losses(gpu(), chunk.there, indices_there.data(), sums_there.data(), minima_there.data(), 0.3, 1.7,
                        totals_there.data(), each_there.data());
      const auto found = totals_there.values(), of_rows = each_there.values();
      for (std::size_t c = 0; c < totals.size(); ++c)
        EXPECT_NEAR(found[c], totals[c], 1e-10 * (1 + std::abs(totals[c]))) << c;
      for (std::size_t i = 0; i < each.size(); ++i) ASSERT_NEAR(of_rows[i], each[i], 1e-11 * (1 + std::abs(each[i])));
    }
}

}  // namespace
}  // namespace limbeck::kernels
