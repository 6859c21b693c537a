// The norm of rows that ranks have in parts (core/ops/cut_rms_norm.h), against that of whole rows.
#include "core/ops/cut_rms_norm.h"

#include <gtest/gtest.h>

#include <vector>

#include "core/ops/rms_norm.h"
#include "parallel/axes/communicators.h"
#include "tests/support/gradient_check.h"
#include "tests/support/thread_ranks.h"

namespace limbeck::parallel {
namespace {

using namespace limbeck::core;
using limbeck::testing::random_tensor;
using limbeck::testing::relative_difference;

/// Columns [first, first + count) of a matrix, or of a row.
Tensor columns(const Tensor& x, std::int64_t first, std::int64_t count) {
  const std::int64_t width = x.shape()[x.shape().rank() - 1], rows = width > 0 ? x.numel() / width : 0;
  std::vector<double> values;
  for (std::int64_t t = 0; t < rows; ++t)
    for (std::int64_t c = first; c < first + count; ++c) values.push_back(x.data<double>()[t * width + c]);
  const Shape shape = x.shape().rank() == 1 ? Shape{count} : Shape{x.shape()[0], count};
  return Tensor::from<double>(x.memory(), shape, values);
}

// Each rank's columns of the norm of whole rows and of its gradients, whichever columns it has: all, some, or none.
TEST(CutRmsNorm, IsThatOfWholeRows) {
  constexpr std::int64_t rows = 5, width = 12;
  const auto memory = Memory::cpu(1);
  const Tensor x = random_tensor(memory, {rows, width}, 1), weight = random_tensor(memory, {width}, 2),
               upstream = random_tensor(memory, {rows, width}, 3);
  Tape whole;
  const Var in = leaf(x), factors = leaf(weight), out = rms_norm(whole, in, factors, 1e-3);
  accumulate(out.slot, upstream);
  whole.run();
  for (const std::vector<std::int64_t>& counts :
       std::vector<std::vector<std::int64_t>>{{12}, {6, 6}, {8, 4}, {3, 0, 9}, {4, 4, 2, 2}})
    for (const DType dtype : {DType::F64, DType::F32, DType::BF16})
      limbeck::testing::run_ranks(static_cast<int>(counts.size()), [&](limbeck::testing::RankWorld& world) {
        const auto comm = make_tensor_comm(world.comm);
        std::int64_t first = 0;
        for (int r = 0; r < world.rank; ++r) first += counts[static_cast<std::size_t>(r)];
        const std::int64_t count = counts[static_cast<std::size_t>(world.rank)];
        const DType sums = sum_dtype(dtype);
        Tape tape;
        const Var mine = leaf(columns(x, first, count).to(dtype)), own = leaf(columns(weight, first, count).to(sums));
        const Var y = cut_rms_norm(tape, mine, own, width, 1e-3, *comm);
        accumulate(y.slot, columns(upstream, first, count).to(dtype));
        tape.run();
        const double tolerance = dtype == DType::F64 ? 1e-14 : dtype == DType::F32 ? 1e-6 : 2e-2;
        const auto expect_near = [&](const Tensor& found, const Tensor& all) {
          EXPECT_LE(relative_difference(found.to(DType::F64), columns(all, first, count)), tolerance);
        };
        expect_near(y.value, out.value);
        expect_near(mine.slot->grad, in.slot->grad);
        expect_near(own.slot->grad, factors.slot->grad);
      });
}

}  // namespace
}  // namespace limbeck::parallel
