#include "kernels/permute.h"

#include <algorithm>
#include <limits>

#include "kernels/capacity.h"
#include "kernels/grouped_matmul.h"
#include "tests/kernels/cuda/on_gpu.h"

namespace limbeck::kernels {
namespace {

using namespace limbeck::testing;

struct Shape {
  std::int64_t tokens, selected, experts;
  int dropped_of_ten;
};
// One expert with all; experts without any; most dropped, all dropped; more assignments than a tile.
const std::vector<Shape> shapes = {{0, 2, 4, 0},    {1, 1, 1, 0},   {5, 3, 4, 2},   {33, 2, 1, 0},
                                   {40, 4, 200, 1}, {20, 2, 3, 10}, {1100, 4, 7, 3}};

std::vector<std::int32_t> selection_of(const Shape& shape) {
  const std::int64_t n = shape.tokens * shape.selected;
  auto selection = random_indices(n, 1, 0, shape.experts);
  const auto chance = random_indices(n, 2, 0, 10);
  for (std::size_t a = 0; a < selection.size(); ++a)
    if (chance[a] < shape.dropped_of_ten) selection[a] = -1;
  return selection;
}

struct Sorted {
  explicit Sorted(const Shape& shape)
      : selection(selection_of(shape)),
        counts(static_cast<std::size_t>(shape.experts)),
        row_of(selection.size()),
        source(selection.size()) {
    sort_by_expert(cpu(), selection.data(), shape.tokens, shape.selected, shape.experts, counts.data(), row_of.data(),
                   source.data());
  }
  std::vector<std::int32_t> selection;
  std::vector<std::int64_t> counts;
  std::vector<std::int32_t> row_of, source;
};

TEST(CudaPermute, SortsAsTheCpuDoes) {
  for (const Shape& shape : shapes) {
    const Sorted sorted(shape);
    const std::int64_t n = shape.tokens * shape.selected;
    OnGpu<std::int32_t> selection(sorted.selection), row_of(n), source(n);
    OnGpu<std::int64_t> counts(shape.experts), offsets(shape.experts + 1);
    sort_by_expert(gpu(), selection.data(), shape.tokens, shape.selected, shape.experts, counts.data(), row_of.data(),
                   source.data());
    offsets_of_counts(gpu(), counts.data(), shape.experts, offsets.data());
    std::vector<std::int64_t> expected(sorted.counts.size() + 1);
    offsets_of_counts(cpu(), sorted.counts.data(), shape.experts, expected.data());
    EXPECT_EQ(counts.values(), sorted.counts);
    EXPECT_EQ(row_of.values(), sorted.row_of);
    EXPECT_EQ(source.values(), sorted.source);
    EXPECT_EQ(offsets.values(), expected);
  }
}

TEST(CudaPermute, RenumbersAllButWhatWasDropped) {
  const std::vector<std::int32_t> numbers = {0, 4, 2, 5};
  OnGpu<std::int32_t> x(std::vector<std::int32_t>{3, -1, 0, 1, 2, 1}), number(numbers), y(6);
  renumber(gpu(), x.data(), number.data(), y.data(), 6);
  EXPECT_EQ(y.values(), (std::vector<std::int32_t>{5, -1, 0, 4, 2, 4}));
}

template <class T>
class CudaPermuteRows : public ::testing::Test {};
using Types = ::testing::Types<float, double, bf16>;
TYPED_TEST_SUITE(CudaPermuteRows, Types);

TYPED_TEST(CudaPermuteRows, GoAndComeBackAsOnTheCpu) {
  using T = TypeParam;
  for (const Shape& shape : shapes)
    for (const std::int64_t width : {1, 24, 31}) {
      const auto [tokens, selected, experts, unused] = shape;
      const Sorted sorted(shape);
      const std::int64_t n = tokens * selected;
      const auto x = random_values<T>(tokens * width, 3), rows = random_values<T>(n * width, 4);
      const auto weights = random_values<Acc<T>>(n, 5);
      std::vector<T> permuted(rows.size()), weighted(x.size()), plain(x.size());
      permute_rows(cpu(), x.data(), sorted.source.data(), permuted.data(), n, selected, width);
      unpermute_rows(cpu(), rows.data(), sorted.row_of.data(), weights.data(), weighted.data(), tokens, selected,
                     width);
      unpermute_rows(cpu(), rows.data(), sorted.row_of.data(), static_cast<const Acc<T>*>(nullptr), plain.data(),
                     tokens, selected, width);
      OnGpu<std::int32_t> source(sorted.source), row_of(sorted.row_of);
      OnGpu<T> x_there(x), rows_there(rows), permuted_there(n * width), weighted_there(tokens * width),
          plain_there(tokens * width);
      OnGpu<Acc<T>> weights_there(weights);
      permute_rows(gpu(), x_there.data(), source.data(), permuted_there.data(), n, selected, width);
      unpermute_rows(gpu(), rows_there.data(), row_of.data(), weights_there.data(), weighted_there.data(), tokens,
                     selected, width);
      unpermute_rows(gpu(), rows_there.data(), row_of.data(), static_cast<const Acc<T>*>(nullptr), plain_there.data(),
                     tokens, selected, width);
      expect_same(permuted_there.values(), permuted);
      expect_close(weighted_there.values(), weighted, 3);
      expect_close(plain_there.values(), plain, 3);
    }
}

TYPED_TEST(CudaPermuteRows, GradientsAreThoseOfTheCpu) {
  using T = TypeParam;
  for (const Shape& shape : shapes)
    for (const std::int64_t width : {1, 24, 31})
      for (const bool with_rows : {false, true})
        for (const bool with_weights : {false, true}) {
          const auto [tokens, selected, experts, unused] = shape;
          const Sorted sorted(shape);
          const std::int64_t n = tokens * selected;
          const auto rows = random_values<T>(n * width, 3), dy = random_values<T>(tokens * width, 4);
          const auto weights = random_values<Acc<T>>(n, 5);
          std::vector<T> drows(rows.size());
          std::vector<Acc<T>> dweights(weights.size());
          unpermute_gradient(cpu(), rows.data(), sorted.source.data(), weights.data(), dy.data(), drows.data(),
                             dweights.data(), n, tokens, selected, width);
          OnGpu<std::int32_t> source(sorted.source);
          OnGpu<T> rows_there(rows), dy_there(dy), drows_there(n * width);
          OnGpu<Acc<T>> weights_there(weights), dweights_there(n);
          unpermute_gradient(gpu(), with_weights ? rows_there.data() : nullptr, source.data(), weights_there.data(),
                             dy_there.data(), with_rows ? drows_there.data() : nullptr,
                             with_weights ? dweights_there.data() : nullptr, n, tokens, selected, width);
          if (with_rows) expect_close(drows_there.values(), drows, 3);
          if (with_weights) expect_close(dweights_there.values(), dweights, 20);
        }
}

TYPED_TEST(CudaPermuteRows, ThoseOfNoGroupAreCleared) {
  using T = TypeParam;
  for (const std::int64_t width : {1, 24, 31})
    for (const std::vector<std::int64_t>& offsets :
         {std::vector<std::int64_t>{0, 4, 9}, {2, 2, 5}, {3, 3, 3}, {0, 0, 0}}) {
      const auto before = random_values<T>(9 * width, 1);
      auto expected = before;
      clear_ungrouped_rows(cpu(), 2, offsets.data(), 9, width, expected.data());
      OnGpu<T> y(before);
      OnGpu<std::int64_t> offsets_there(offsets);
      clear_ungrouped_rows(gpu(), 2, offsets_there.data(), 9, width, y.data());
      expect_same(y.values(), expected);
    }
}

// With ties, scores that are no numbers and both signs; sequences of one token and of many.
template <class T>
class CudaExpertChoice : public ::testing::Test {};
using ScoreTypes = ::testing::Types<float, double>;
TYPED_TEST_SUITE(CudaExpertChoice, ScoreTypes);

TYPED_TEST(CudaExpertChoice, TakesWhatTheCpuTakes) {
  using T = TypeParam;
  struct Case {
    std::int64_t tokens, experts, selected;
    int sequences;
  };
  for (const auto [tokens, experts, selected, sequences] :
       {Case{0, 4, 2, 1}, Case{1, 1, 1, 1}, Case{50, 4, 2, 3}, Case{33, 1, 1, 40}, Case{300, 9, 4, 2}})
    for (const double factor : {0.3, 1.0, 9.0}) {
      auto scores = random_values<T>(tokens * experts, 1);
      for (std::size_t i = 0; i < scores.size(); ++i) {
        if (i % 3 == 0) scores[i] = T(static_cast<int>(i) % 2) - (i % 2 == 0 ? T(0) : T(1));
        if (i % 11 == 5) scores[i] = std::numeric_limits<T>::quiet_NaN();
        if (i % 13 == 5) scores[i] = -std::numeric_limits<T>::infinity();
        if (i % 17 == 3) scores[i] = -T(0);
      }
      auto sequence = random_indices(tokens, 2, 0, sequences);
      std::sort(sequence.begin(), sequence.end());
      std::vector<std::int32_t> selection(scores.size());
      const CapacityShape shape{tokens, experts, selected};
      choose_tokens(cpu(), scores.data(), sequence.data(), selection.data(), shape, factor);
      OnGpu<T> scores_there(scores);
      OnGpu<std::int32_t> there(tokens * experts), sequence_there(sequence);
      choose_tokens(gpu(), scores_there.data(), sequence_there.data(), there.data(), shape, factor);
      EXPECT_EQ(there.values(), selection);
      std::int64_t untaken = 0;
      count_untaken(cpu(), selection.data(), tokens, experts, &untaken);
      OnGpu<std::int64_t> untaken_there(1);
      count_untaken(gpu(), there.data(), tokens, experts, untaken_there.data());
      EXPECT_EQ(untaken_there.values(), std::vector{untaken});
    }
}

TEST(CudaCapacity, KeepsWhatTheCpuKeeps) {
  struct Case {
    std::int64_t tokens, experts, selected;
    int sequences;
  };
  for (const auto [tokens, experts, selected, sequences] :
       {Case{0, 4, 2, 1}, Case{1, 1, 1, 1}, Case{50, 4, 2, 3}, Case{33, 1, 1, 40}, Case{300, 9, 4, 2}})
    for (const double factor : {0.3, 1.0, 1.25}) {
      const auto selection = random_indices(tokens * selected, 1, 0, experts);
      auto sequence = random_indices(tokens, 2, 0, sequences);
      std::sort(sequence.begin(), sequence.end());
      std::vector<std::int32_t> kept(selection.size());
      const CapacityShape shape{tokens, experts, selected};
      limit_capacity(cpu(), selection.data(), sequence.data(), kept.data(), shape, factor);
      OnGpu<std::int32_t> there(selection), sequence_there(sequence);
      limit_capacity(gpu(), there.data(), sequence_there.data(), there.data(), shape, factor);  // in place
      EXPECT_EQ(there.values(), kept);
    }
}

}  // namespace
}  // namespace limbeck::kernels
