#include "kernels/grouped_matmul.h"

#include "kernels/packed.h"
#include "tests/kernels/cuda/on_gpu.h"

namespace limbeck::kernels {
namespace {

using namespace limbeck::testing;

struct Case {
  std::vector<std::int64_t> offsets;  // of groups among `rows` rows
  std::int64_t rows, in, out;
};
// Groups without rows, one with all, rows of nobody in front and behind, tiles filled and not, odd widths.
const Case cases[] = {{{0, 3, 3, 10}, 10, 16, 24}, {{2, 5, 6, 9}, 12, 7, 13}, {{0, 0, 150, 150}, 150, 40, 136},
                      {{0, 0, 0}, 4, 8, 8},        {{0, 1}, 1, 1, 1},         {{0, 129, 260}, 260, 64, 8},
                      {{5, 5, 140}, 150, 33, 130}};

/// One group's product after the other, on the CPU; bfloat16 by way of float32, exactly.
template <class T>
std::vector<Acc<T>> widened(const std::vector<T>& x) {
  std::vector<Acc<T>> wide;
  for (const T value : x) wide.push_back(as<Acc<T>>(value));
  return wide;
}

template <class To, class From>
std::vector<To> as_all(const std::vector<From>& x) {
  std::vector<To> values;
  for (const From value : x) values.push_back(as<To>(value));
  return values;
}

template <class T, class W>
void check_forward_and_input(double scale) {
  using A = Acc<T>;
  for (const Case& c : cases)
    for (const double beta : {0.0, 1.0}) {
      const auto experts = std::ssize(c.offsets) - 1;
      SCOPED_TRACE(::testing::Message() << c.rows << " rows, in " << c.in << ", out " << c.out << ", beta " << beta);
      const auto rows = random_values<T>(c.rows * c.in, 1), dy = random_values<T>(c.rows * c.out, 2);
      const auto weight = random_values<W>(experts * c.out * c.in, 3);
      const auto y = random_values<T>(c.rows * c.out, 4), drows = random_values<T>(c.rows * c.in, 5);
      auto y_right = widened(y), drows_right = widened(drows);
      const auto wide = as_all<A>(weight);
      grouped_matmul(cpu(), experts, c.in, c.out, c.offsets.data(), widened(rows).data(), wide.data(),
                     static_cast<A>(beta), y_right.data());
      grouped_matmul_input(cpu(), experts, c.in, c.out, c.offsets.data(), widened(dy).data(), wide.data(),
                           static_cast<A>(beta), drows_right.data());
      OnGpu<std::int64_t> offsets(c.offsets);
      OnGpu<T> rows_there(rows), dy_there(dy), y_there(y), drows_there(drows);
      OnGpu<W> weight_there(weight);
      if constexpr (std::is_same_v<T, bf16>) {
        packed_grouped_matmul(gpu(), experts, c.out, c.in, offsets.data(), rows_there.data(),
                              {Transpose::Yes, weight_there.data()}, static_cast<float>(beta), y_there.data());
        packed_grouped_matmul(gpu(), experts, c.in, c.out, offsets.data(), dy_there.data(),
                              {Transpose::No, weight_there.data()}, static_cast<float>(beta), drows_there.data());
      } else {
        grouped_matmul(gpu(), experts, c.in, c.out, offsets.data(), rows_there.data(), weight_there.data(),
                       static_cast<A>(beta), y_there.data());
        grouped_matmul_input(gpu(), experts, c.in, c.out, offsets.data(), dy_there.data(), weight_there.data(),
                             static_cast<A>(beta), drows_there.data());
      }
      expect_close(y_there.values(), as_all<T>(y_right), scale);
      expect_close(drows_there.values(), as_all<T>(drows_right), scale);
    }
}

template <class T>
void check_weight(double scale) {
  using A = Acc<T>;
  for (const Case& c : cases)
    for (const double beta : {0.0, 1.0}) {
      const auto experts = std::ssize(c.offsets) - 1;
      SCOPED_TRACE(::testing::Message() << c.rows << " rows, in " << c.in << ", out " << c.out << ", beta " << beta);
      const auto rows = random_values<T>(c.rows * c.in, 1), dy = random_values<T>(c.rows * c.out, 2);
      const auto dweight = random_values<A>(experts * c.out * c.in, 3);
      auto right = dweight;
      grouped_matmul_weight(cpu(), experts, c.in, c.out, c.offsets.data(), widened(dy).data(), widened(rows).data(),
                            static_cast<A>(beta), right.data());
      OnGpu<std::int64_t> offsets(c.offsets);
      OnGpu<T> rows_there(rows), dy_there(dy);
      OnGpu<A> dweight_there(dweight);
      grouped_matmul_weight(gpu(), experts, c.in, c.out, offsets.data(), dy_there.data(), rows_there.data(),
                            static_cast<A>(beta), dweight_there.data());
      expect_close(dweight_there.values(), right, scale);
    }
}

TEST(CudaGroupedMatmul, IsThatOfTheCpu) {
  check_forward_and_input<float, float>(50);
  check_forward_and_input<float, bf16>(50);
  check_forward_and_input<double, double>(50);
  check_forward_and_input<double, bf16>(50);
  check_forward_and_input<bf16, bf16>(50);
}

TEST(CudaGroupedMatmul, WeightGradientsAreThoseOfTheCpu) {
  check_weight<float>(50);
  check_weight<double>(50);
  check_weight<bf16>(50);
}

}  // namespace
}  // namespace limbeck::kernels
