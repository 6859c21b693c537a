#include "kernels/match_routing.h"

#include "tests/kernels/cuda/on_gpu.h"

namespace limbeck::kernels {
namespace {

using namespace limbeck::testing;

template <class T>
class CudaMatchRouting : public ::testing::Test {};
using Types = ::testing::Types<float, double>;
TYPED_TEST_SUITE(CudaMatchRouting, Types);

TYPED_TEST(CudaMatchRouting, DistancesAndGradientsAreThoseOfTheCpu) {
  using T = TypeParam;
  for (const auto& [rows, experts] : {std::pair<std::int64_t, std::int64_t>{0, 8}, {1, 1}, {7, 33}, {40, 64}})
    for (const bool is_weighted : {false, true}) {
      auto q = random_values<T>(rows * experts, 1, 1), p = random_values<T>(rows * experts, 2, 1);
      for (auto* values : {&q, &p})
        for (T& value : *values) value = value * value;  // no negative ones; some zeros
      for (std::size_t i = 0; i < p.size(); i += 5) p[i] = 0;
      for (std::size_t i = 3; i < q.size(); i += 7) q[i] = 0;
      const auto targets = random_indices(rows, 3, -1, 3);
      const std::vector<T> dloss{T(1.5)};
      const std::vector<double> scale{0.25};
      std::vector<double> weights(static_cast<std::size_t>(rows), 0.5), distance(weights.size()),
          squares(weights.size());
      for (std::size_t t = 0; t < weights.size(); t += 2) weights[t] = 2;
      std::vector<T> dq(q.size());
      routing_distance(cpu(), q.data(), p.data(), targets.data(), is_weighted ? weights.data() : nullptr,
                       {3, scale.data()}, distance.data(), squares.data(), rows, experts);
      routing_distance_gradient(cpu(), q.data(), p.data(), targets.data(), is_weighted ? weights.data() : nullptr,
                                {3, scale.data()}, dloss.data(), dq.data(), rows, experts);
      OnGpu<T> q_there(q), p_there(p), dloss_there(dloss), dq_there(rows * experts);
      OnGpu<std::int32_t> targets_there(targets);
      OnGpu<double> scale_there(scale), weights_there(weights), distance_there(rows), squares_there(rows);
      routing_distance(gpu(), q_there.data(), p_there.data(), targets_there.data(),
                       is_weighted ? weights_there.data() : nullptr, {3, scale_there.data()}, distance_there.data(),
                       squares_there.data(), rows, experts);
      routing_distance_gradient(gpu(), q_there.data(), p_there.data(), targets_there.data(),
                                is_weighted ? weights_there.data() : nullptr, {3, scale_there.data()},
                                dloss_there.data(), dq_there.data(), rows, experts);
      expect_close(distance_there.values(), distance, 10);
      expect_close(squares_there.values(), squares, 10);
      expect_close(dq_there.values(), dq);
    }
}

TEST(CudaLoadWeights, AreThoseOfTheCpu) {
  for (const auto& [tokens, experts, selected] :
       {std::tuple<std::int64_t, std::int64_t, std::int64_t>{0, 4, 2}, {1, 1, 1}, {90, 7, 2}, {700, 64, 6}}) {
    const auto selection = random_indices(tokens * selected, 1, 0, static_cast<int>(experts));
    std::vector<std::int32_t> sequence(static_cast<std::size_t>(tokens));
    for (std::size_t t = 0; t < sequence.size(); ++t) sequence[t] = t < 20 ? 3 : static_cast<std::int32_t>(t / 300);
    const BalanceShape shape{tokens, experts, selected, 4};
    std::vector<double> counts(static_cast<std::size_t>(4 * experts)), weights(sequence.size());
    count_assignments(cpu(), selection.data(), sequence.data(), counts.data(), shape);
    load_weights(cpu(), selection.data(), counts.data(), sequence.data(), weights.data(), shape);
    OnGpu<std::int32_t> selection_there(selection), sequence_there(sequence);
    OnGpu<double> counts_there(counts), there(tokens);
    load_weights(gpu(), selection_there.data(), counts_there.data(), sequence_there.data(), there.data(), shape);
    expect_close(there.values(), weights, 10);
  }
}

}  // namespace
}  // namespace limbeck::kernels
