#include "kernels/reward.h"

#include "tests/kernels/cuda/on_gpu.h"

namespace limbeck::kernels {
namespace {

using namespace limbeck::testing;

template <class X>
void compare(const std::vector<std::int64_t>& offsets, std::int64_t width) {
  const std::int64_t tokens = offsets.back(), n = std::ssize(offsets) - 1;
  const auto x = random_values<X>(tokens * width, 1, 1);
  const auto weight = random_values<Acc<X>>(width, 2, 1);
  const std::vector<double> scale = {0.3};
  const std::vector<Acc<X>> dloss = {Acc<X>{2}};
  std::vector<std::int32_t> document(static_cast<std::size_t>(tokens));
  for (std::int64_t i = 0; i < n; ++i)
    for (std::int64_t t = offsets[i]; t < offsets[i + 1]; ++t)
      document[t] = static_cast<std::int32_t>(3 * (t - offsets[i]) / (offsets[i + 1] - offsets[i]));
  std::vector<std::int64_t> last(2 * n);
  std::vector<double> rewards(2 * n), losses(n), slopes(2 * n), pairs(n * num_preference_columns);
  std::vector<X> dx = random_values<X>(tokens * width, 3, 1);
  std::vector<Acc<X>> dweight = random_values<Acc<X>>(width, 4, 1);
  OnGpu<X> x_there(x), dx_there(dx);
  OnGpu<Acc<X>> weight_there(weight), dloss_there(dloss), dweight_there(dweight);
  OnGpu<double> scale_there(scale), rewards_there(2 * n), losses_there(n), slopes_there(2 * n),
      pairs_there(n * num_preference_columns);
  OnGpu<std::int32_t> document_there(document);
  OnGpu<std::int64_t> offsets_there(offsets), last_there(2 * n);

  response_rewards(cpu(), x.data(), weight.data(), document.data(), offsets.data(), last.data(), rewards.data(), n,
                   width);
  response_rewards(gpu(), x_there.data(), weight_there.data(), document_there.data(), offsets_there.data(),
                   last_there.data(), rewards_there.data(), n, width);
  EXPECT_EQ(last_there.values(), last);
  expect_close(rewards_there.values(), rewards, 1000);

  reward_pairs(cpu(), rewards.data(), n, 0.2, scale.data(), losses.data(), slopes.data(), pairs.data());
  reward_pairs(gpu(), rewards_there.data(), n, 0.2, scale_there.data(), losses_there.data(), slopes_there.data(),
               pairs_there.data());
  expect_close(losses_there.values(), losses, 1000);
  expect_close(slopes_there.values(), slopes, 1000);
  expect_close(pairs_there.values(), pairs, 1000);

  reward_input_gradient(cpu(), weight.data(), last.data(), slopes.data(), dloss.data(), dx.data(), n, width);
  reward_input_gradient(gpu(), weight_there.data(), last_there.data(), slopes_there.data(), dloss_there.data(),
                        dx_there.data(), n, width);
  expect_close(dx_there.values(), dx, 4);

  for (const bool add : {true, false}) {
    reward_weight_gradient(cpu(), x.data(), last.data(), slopes.data(), dloss.data(), add, dweight.data(), n, width);
    reward_weight_gradient(gpu(), x_there.data(), last_there.data(), slopes_there.data(), dloss_there.data(), add,
                           dweight_there.data(), n, width);
    expect_close(dweight_there.values(), dweight, 1000);
  }
}

TEST(CudaReward, RewardsAndGradientsAreThoseOfTheCpu) {
  for (const std::vector<std::int64_t>& offsets :
       {std::vector<std::int64_t>{0}, {0, 1}, {0, 0, 7}, {0, 40, 41, 900, 1600}})
    for (const std::int64_t width : {1, 67, 300}) {
      compare<float>(offsets, width);
      compare<double>(offsets, width);
      compare<bf16>(offsets, width);
    }
}

}  // namespace
}  // namespace limbeck::kernels
