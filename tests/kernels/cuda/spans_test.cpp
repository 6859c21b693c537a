#include "kernels/spans.h"

#include "kernels/distillation.h"
#include "tests/kernels/cuda/on_gpu.h"

namespace limbeck::kernels {
namespace {

using namespace limbeck::testing;

TEST(CudaSpans, WeightsAndFiguresAreThoseOfTheCpu) {
  for (const std::int64_t n : {0, 1, 37, 1500}) {
    std::vector<std::int64_t> table;
    std::int64_t first = 1, there = 0;
    for (std::int64_t i = 0; i < n; ++i) {
      const std::int64_t own = 1 + i % 4, theirs = 1 + i % 3;
      table.insert(table.end(), {first, own, there, theirs, 3 * own});
      first += own + i % 2;
      there += theirs + 1;
    }
    const std::int64_t tokens = first + 2;
    auto each = random_values<double>(tokens * num_loss_columns, 1, 1);
    auto theirs = random_values<double>((there + 1) * num_loss_columns, 2, 1);
    for (auto* values : {&each, &theirs})
      for (double& value : *values) value = std::abs(value);
    std::vector<double> weights(static_cast<std::size_t>(tokens)), rows(static_cast<std::size_t>(n * num_span_columns));
    spans(cpu(), each.data(), theirs.data(), table.data(), n, 0.3, weights.data(), tokens, rows.data());
    OnGpu<double> each_there(each), theirs_there(theirs), weights_there(tokens), rows_there(n * num_span_columns);
    OnGpu<std::int64_t> table_there(table);
    spans(gpu(), each_there.data(), theirs_there.data(), table_there.data(), n, 0.3, weights_there.data(), tokens,
          rows_there.data());
    expect_close(weights_there.values(), weights, 1000);
    expect_close(rows_there.values(), rows, 1000);
  }
}

}  // namespace
}  // namespace limbeck::kernels
