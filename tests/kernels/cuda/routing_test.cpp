#include "kernels/routing.h"

#include <limits>

#include "kernels/softmax.h"
#include "kernels/topk.h"
#include "tests/kernels/cuda/on_gpu.h"

namespace limbeck::kernels {
namespace {

using namespace limbeck::testing;

template <class T>
class CudaRouting : public ::testing::Test {};
using Types = ::testing::Types<float, double>;
TYPED_TEST_SUITE(CudaRouting, Types);

struct Shape {
  std::int64_t tokens, experts, selected;
};
const std::vector<Shape> shapes = {{0, 4, 2}, {1, 1, 1}, {3, 5, 5}, {800, 9, 2}, {20, 33, 4}, {9, 128, 8}};

TYPED_TEST(CudaRouting, SoftmaxIsThatOfTheCpu) {
  using T = TypeParam;
  for (const auto [rows, width, unused] : shapes) {
    const auto x = random_values<T>(rows * width, 1, 5), dy = random_values<T>(rows * width, 2);
    std::vector<T> y(x.size()), dx(x.size());
    softmax(cpu(), x.data(), y.data(), rows, width);
    softmax_gradient(cpu(), y.data(), dy.data(), dx.data(), rows, width);
    OnGpu<T> x_there(x), y_there(y), dy_there(dy);
    softmax(gpu(), x_there.data(), x_there.data(), rows, width);  // in place
    softmax_gradient(gpu(), y_there.data(), dy_there.data(), dy_there.data(), rows, width);
    expect_close(x_there.values(), y);
    expect_close(dy_there.values(), dx);
  }
}

TYPED_TEST(CudaRouting, TheSameAreSelected) {
  using T = TypeParam;
  for (const auto [rows, width, count] : shapes) {
    auto scores = random_values<T>(rows * width, 1);
    for (std::size_t i = 0; i < scores.size(); ++i) {
      if (i % 3 == 0) scores[i] = T(static_cast<int>(i) % 2);  // ties
      if (i % 11 == 5) scores[i] = std::numeric_limits<T>::quiet_NaN();
      if (i % 13 == 5) scores[i] = -std::numeric_limits<T>::infinity();
    }
    std::vector<std::int32_t> selection(static_cast<std::size_t>(rows * count));
    topk(cpu(), scores.data(), selection.data(), rows, width, count);
    OnGpu<T> there(scores);
    OnGpu<std::int32_t> selection_there(rows * count);
    topk(gpu(), there.data(), selection_there.data(), rows, width, count);
    EXPECT_EQ(selection_there.values(), selection);
  }
}

TYPED_TEST(CudaRouting, WeightsAndTheirGradientAreThoseOfTheCpu) {
  using T = TypeParam;
  for (const auto [tokens, experts, selected] : shapes)
    for (const bool renormalise : {false, true}) {
      const RoutingShape shape{tokens, experts, selected, renormalise, 1.5};
      auto p = random_values<T>(tokens * experts, 1);
      softmax(cpu(), p.data(), p.data(), tokens, experts);
      std::vector<std::int32_t> selection(static_cast<std::size_t>(tokens * selected));
      topk(cpu(), p.data(), selection.data(), tokens, experts, selected);
      if (experts == 9)
        for (std::size_t a = 0; a < selection.size(); a += 3) selection[a] = -1;
      const auto dweights = random_values<T>(tokens * selected, 2), dp = random_values<T>(tokens * experts, 3);
      std::vector<T> weights(selection.size()), dlogits(p.size());
      routing_weights(cpu(), p.data(), selection.data(), weights.data(), shape);
      routing_gradient(cpu(), p.data(), selection.data(), dweights.data(), dp.data(), dlogits.data(), shape);
      OnGpu<T> p_there(p), dweights_there(dweights), dp_there(dp), weights_there(tokens * selected),
          dlogits_there(tokens * experts);
      OnGpu<std::int32_t> selection_there(selection);
      routing_weights(gpu(), p_there.data(), selection_there.data(), weights_there.data(), shape);
      routing_gradient(gpu(), p_there.data(), selection_there.data(), dweights_there.data(), dp_there.data(),
                       dlogits_there.data(), shape);
      expect_close(weights_there.values(), weights);
      expect_close(dlogits_there.values(), dlogits);
    }
}

TYPED_TEST(CudaRouting, TheMixersWeightsAndTheirGradientAreThoseOfTheCpu) {
  using T = TypeParam;
  for (const auto [tokens, experts, unused] : shapes) {
    if (experts < 2) continue;
    for (const double threshold : {0.02, 0.7}) {
      const MixerShape shape{tokens, experts, threshold, 1.5};
      const auto z = random_values<T>(tokens * experts, 1);
      std::vector<std::int32_t> selection(static_cast<std::size_t>(2 * tokens));
      topk(cpu(), z.data(), selection.data(), tokens, experts, 2);
      const auto dweights = random_values<T>(tokens * 2, 2);
      auto dlogits = random_values<T>(tokens * experts, 3);
      std::vector<T> weights(selection.size());
      OnGpu<T> z_there(z), dweights_there(dweights), weights_there(tokens * 2), dlogits_there(dlogits);
      OnGpu<std::int32_t> selection_there(selection);
      mixer_weights(cpu(), z.data(), selection.data(), weights.data(), shape);
      mixer_gradient(cpu(), z.data(), selection.data(), dweights.data(), dlogits.data(), shape);
      mixer_weights(gpu(), z_there.data(), selection_there.data(), weights_there.data(), shape);
      mixer_gradient(gpu(), z_there.data(), selection_there.data(), dweights_there.data(), dlogits_there.data(), shape);
      expect_close(weights_there.values(), weights);
      expect_close(dlogits_there.values(), dlogits);
    }
  }
}

TYPED_TEST(CudaRouting, SigmoidsAndTheirGradientAreThoseOfTheCpu) {
  using T = TypeParam;
  for (const auto [tokens, experts, selected] : shapes)
    for (const bool renormalise : {false, true}) {
      const RoutingShape shape{tokens, experts, selected, renormalise, 1.5, /*is_sigmoid=*/true};
      const auto z = random_values<T>(tokens * experts, 1, 3);
      std::vector<T> scores(z.size()), p(z.size());
      routing_sigmoid(cpu(), z.data(), scores.data(), p.data(), tokens, experts);
      std::vector<std::int32_t> selection(static_cast<std::size_t>(tokens * selected));
      topk(cpu(), scores.data(), selection.data(), tokens, experts, selected);
      const auto dweights = random_values<T>(tokens * selected, 2), dp = random_values<T>(tokens * experts, 3);
      std::vector<T> weights(selection.size()), dlogits(z.size());
      routing_weights(cpu(), scores.data(), selection.data(), weights.data(), shape);
      routing_gradient(cpu(), scores.data(), selection.data(), dweights.data(), dp.data(), dlogits.data(), shape);
      OnGpu<T> z_there(z), scores_there(tokens * experts), p_there(tokens * experts), dweights_there(dweights),
          dp_there(dp), weights_there(tokens * selected), dlogits_there(tokens * experts);
      OnGpu<std::int32_t> selection_there(selection);
      routing_sigmoid(gpu(), z_there.data(), scores_there.data(), p_there.data(), tokens, experts);
      routing_weights(gpu(), scores_there.data(), selection_there.data(), weights_there.data(), shape);
      routing_gradient(gpu(), scores_there.data(), selection_there.data(), dweights_there.data(), dp_there.data(),
                       dlogits_there.data(), shape);
      expect_close(scores_there.values(), scores);
      expect_close(p_there.values(), p);
      expect_close(weights_there.values(), weights);
      expect_close(dlogits_there.values(), dlogits);
    }
}

// With ties between groups and within them, and scores that are no numbers.
TYPED_TEST(CudaRouting, TheSameGroupsAreChosen) {
  using T = TypeParam;
  struct Groups {
    std::int64_t experts, groups, taken;
  };
  for (const auto [experts, groups, taken] :
       {Groups{9, 3, 2}, Groups{256, 8, 4}, Groups{80, 40, 3}, Groups{6, 1, 1}, Groups{8, 4, 4}})
    for (const bool best_two : {false, true})
      for (const bool has_bias : {false, true}) {
        const std::int64_t tokens = 70;
        auto scores = random_values<T>(tokens * experts, 1);
        const auto bias = random_values<T>(experts, 2, 0.5);
        for (std::size_t i = 0; i < scores.size(); ++i) {
          if (i % 3 == 0) scores[i] = T(static_cast<int>(i) % 2);
          if (i % 11 == 5) scores[i] = std::numeric_limits<T>::quiet_NaN();
        }
        const RoutingGroups of{groups, taken, best_two};
        std::vector<T> choice(scores.size());
        routing_choice(cpu(), scores.data(), has_bias ? bias.data() : nullptr, of, choice.data(), tokens, experts);
        OnGpu<T> scores_there(scores), bias_there(bias), choice_there(tokens * experts);
        routing_choice(gpu(), scores_there.data(), has_bias ? bias_there.data() : nullptr, of, choice_there.data(),
                       tokens, experts);
        const std::vector<T> there = choice_there.values();
        for (std::size_t i = 0; i < choice.size(); ++i)
          ASSERT_TRUE(there[i] == choice[i] || (std::isnan(there[i]) && std::isnan(choice[i]))) << i;
      }
}

}  // namespace
}  // namespace limbeck::kernels
