#include "kernels/cut_rms_norm.h"

#include "tests/kernels/cuda/on_gpu.h"

namespace limbeck::kernels {
namespace {

using namespace limbeck::testing;

template <class T>
class CudaCutRmsNorm : public ::testing::Test {};
using Types = ::testing::Types<float, double, bf16>;
TYPED_TEST_SUITE(CudaCutRmsNorm, Types);

TYPED_TEST(CudaCutRmsNorm, IsThatOfTheCpu) {
  using T = TypeParam;
  using A = Acc<T>;
  struct Shape {
    std::int64_t rows, width, total;
  };
  for (const auto [rows, width, total] :
       {Shape{0, 8, 16}, Shape{1, 1, 2}, Shape{3, 7, 9}, Shape{130, 24, 48}, Shape{4, 0, 8}, Shape{5, 1000, 3000}})
    for (const bool add : {false, true}) {
      const auto x = random_values<T>(rows * width, 1), dy = random_values<T>(rows * width, 2);
      const auto weight = random_values<A>(width, 3);
      auto dx = random_values<T>(rows * width, 4);
      std::vector<T> y(x.size());
      std::vector<A> squares(static_cast<std::size_t>(rows)), r(squares.size()), dots(squares.size());
      OnGpu<T> x_there(x), dy_there(dy), dx_there(dx), y_there(rows * width);
      OnGpu<A> weight_there(weight), squares_there(rows), r_there(rows), dots_there(rows);
      row_squares(cpu(), x.data(), squares.data(), rows, width);
      cut_rms_norm(cpu(), x.data(), weight.data(), squares.data(), y.data(), r.data(), rows, width, total, 1e-5);
      row_dots(cpu(), x.data(), weight.data(), dy.data(), dots.data(), rows, width);
      cut_rms_norm_input_gradient(cpu(), x.data(), weight.data(), r.data(), dots.data(), dy.data(), add, dx.data(),
                                  rows, width, total);
      row_squares(gpu(), x_there.data(), squares_there.data(), rows, width);
      cut_rms_norm(gpu(), x_there.data(), weight_there.data(), squares_there.data(), y_there.data(), r_there.data(),
                   rows, width, total, 1e-5);
      row_dots(gpu(), x_there.data(), weight_there.data(), dy_there.data(), dots_there.data(), rows, width);
      cut_rms_norm_input_gradient(gpu(), x_there.data(), weight_there.data(), r_there.data(), dots_there.data(),
                                  dy_there.data(), add, dx_there.data(), rows, width, total);
      expect_close(squares_there.values(), squares, static_cast<double>(width + 1));
      expect_close(r_there.values(), r);
      expect_close(y_there.values(), y, 3);
      expect_close(dots_there.values(), dots, static_cast<double>(width + 1));
      expect_close(dx_there.values(), dx, 20);
    }
}

}  // namespace
}  // namespace limbeck::kernels
