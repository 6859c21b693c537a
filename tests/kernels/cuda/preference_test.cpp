#include "kernels/preference.h"

#include "kernels/distillation.h"
#include "tests/kernels/cuda/on_gpu.h"

namespace limbeck::kernels {
namespace {

using namespace limbeck::testing;

TEST(CudaPreference, WeightsAndFiguresAreThoseOfTheCpu) {
  for (const std::vector<std::int64_t>& offsets :
       {std::vector<std::int64_t>{0}, {0, 1}, {0, 0, 7}, {0, 40, 41, 900, 1600}}) {
    const std::int64_t tokens = offsets.back(), n = std::ssize(offsets) - 1;
    const auto each = random_values<double>(tokens * num_loss_columns, 1, 1);
    std::vector<std::int32_t> document(static_cast<std::size_t>(tokens));
    for (std::int64_t i = 0; i < n; ++i)
      for (std::int64_t t = offsets[i]; t < offsets[i + 1]; ++t)
        document[t] = static_cast<std::int32_t>(3 * (t - offsets[i]) / (offsets[i + 1] - offsets[i]));
    std::vector<double> weights(document.size()), pairs(static_cast<std::size_t>(n * num_preference_columns));
    preference(cpu(), each.data(), document.data(), offsets.data(), n, 0.3, weights.data(), pairs.data());
    OnGpu<double> each_there(each), weights_there(tokens), pairs_there(n * num_preference_columns);
    OnGpu<std::int32_t> document_there(document);
    OnGpu<std::int64_t> offsets_there(offsets);
    preference(gpu(), each_there.data(), document_there.data(), offsets_there.data(), n, 0.3, weights_there.data(),
               pairs_there.data());
    expect_close(weights_there.values(), weights, 1000);
    expect_close(pairs_there.values(), pairs, 1000);
  }
}

}  // namespace
}  // namespace limbeck::kernels
