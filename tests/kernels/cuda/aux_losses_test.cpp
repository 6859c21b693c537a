#include "kernels/aux_losses.h"

#include "kernels/softmax.h"
#include "tests/kernels/cuda/on_gpu.h"

namespace limbeck::kernels {
namespace {

using namespace limbeck::testing;

template <class T>
class CudaAuxLosses : public ::testing::Test {};
using Types = ::testing::Types<float, double>;
TYPED_TEST_SUITE(CudaAuxLosses, Types);

struct Case {
  std::int64_t tokens, experts, selected;
  int sequences;
};
const std::vector<Case> cases = {{0, 4, 2, 1}, {1, 1, 1, 1}, {50, 4, 2, 3}, {33, 7, 1, 40}, {600, 9, 4, 2}};

template <class T>
struct Routed {
  explicit Routed(const Case& c)
      : shape{c.tokens, c.experts, c.selected, c.sequences},
        p(random_values<T>(c.tokens * c.experts, 1)),
        selection(random_indices(c.tokens * c.selected, 2, 0, c.experts)),
        sequence(random_indices(c.tokens, 3, 0, c.sequences)) {
    std::sort(sequence.begin(), sequence.end());
    softmax(cpu(), p.data(), p.data(), c.tokens, c.experts);
  }
  BalanceShape shape;
  std::vector<T> p;
  std::vector<std::int32_t> selection, sequence;
};

TYPED_TEST(CudaAuxLosses, BalanceIsThatOfTheCpu) {
  using T = TypeParam;
  for (const Case& c : cases) {
    const Routed<T> routed(c);
    const std::int64_t num_counts = c.sequences * c.experts;
    std::vector<T> counts(static_cast<std::size_t>(num_counts)), loss(1), dloss{T(0.7)}, dp(routed.p.size());
    std::vector<double> squares(static_cast<std::size_t>(c.tokens));
    count_assignments(cpu(), routed.selection.data(), routed.sequence.data(), counts.data(), routed.shape);
    balance_loss(cpu(), routed.p.data(), counts.data(), routed.sequence.data(), loss.data(), routed.shape, 0.3);
    balance_loss_gradient(cpu(), counts.data(), routed.sequence.data(), dloss.data(), dp.data(), routed.shape, 0.3);
    balance_loss_squares(cpu(), routed.p.data(), counts.data(), routed.sequence.data(), squares.data(), routed.shape,
                         0.3);
    OnGpu<T> p_there(routed.p), counts_there(num_counts), loss_there(1), dloss_there(dloss),
        dp_there(c.tokens * c.experts);
    OnGpu<std::int32_t> selection(routed.selection), sequence(routed.sequence);
    OnGpu<double> squares_there(c.tokens);
    count_assignments(gpu(), selection.data(), sequence.data(), counts_there.data(), routed.shape);
    balance_loss(gpu(), p_there.data(), counts_there.data(), sequence.data(), loss_there.data(), routed.shape, 0.3);
    balance_loss_gradient(gpu(), counts_there.data(), sequence.data(), dloss_there.data(), dp_there.data(),
                          routed.shape, 0.3);
    balance_loss_squares(gpu(), p_there.data(), counts_there.data(), sequence.data(), squares_there.data(),
                         routed.shape, 0.3);
    expect_close(squares_there.values(), squares);
    expect_same(counts_there.values(), counts);
    expect_close(loss_there.values(), loss, 30);
    expect_close(dp_there.values(), dp);
  }
}

TYPED_TEST(CudaAuxLosses, SharedBalanceIsThatOfTheCpu) {
  using T = TypeParam;
  for (const Case& c : cases) {
    const Routed<T> routed(c);
    const BalanceShape one{c.tokens, c.experts, c.selected};
    std::vector<T> counts(static_cast<std::size_t>(c.experts)), loss(1), dloss{T(0.7)}, dp(routed.p.size());
    std::vector<double> squares(static_cast<std::size_t>(c.tokens));
    count_assignments(cpu(), routed.selection.data(), nullptr, counts.data(), one);
    shared_balance_loss(cpu(), routed.p.data(), counts.data(), loss.data(), one, 0.3);
    shared_balance_loss_gradient(cpu(), counts.data(), dloss.data(), dp.data(), one, 0.3);
    balance_loss_squares(cpu(), routed.p.data(), counts.data(), nullptr, squares.data(), one, 0.3);
    OnGpu<T> p_there(routed.p), counts_there(c.experts), loss_there(1), dloss_there(dloss),
        dp_there(c.tokens * c.experts);
    OnGpu<std::int32_t> selection(routed.selection);
    OnGpu<double> squares_there(c.tokens);
    count_assignments(gpu(), selection.data(), nullptr, counts_there.data(), one);
    shared_balance_loss(gpu(), p_there.data(), counts_there.data(), loss_there.data(), one, 0.3);
    shared_balance_loss_gradient(gpu(), counts_there.data(), dloss_there.data(), dp_there.data(), one, 0.3);
    balance_loss_squares(gpu(), p_there.data(), counts_there.data(), nullptr, squares_there.data(), one, 0.3);
    expect_close(squares_there.values(), squares);
    expect_same(counts_there.values(), counts);
    expect_close(loss_there.values(), loss, 30);
    expect_close(dp_there.values(), dp);
  }
}

TYPED_TEST(CudaAuxLosses, ZLossIsThatOfTheCpu) {
  using T = TypeParam;
  for (const Case& c : cases) {
    const auto z = random_values<T>(c.tokens * c.experts, 1, 5);
    std::vector<T> lse(static_cast<std::size_t>(c.tokens)), loss(1), dloss{T(0.7)}, dz(z.size());
    std::vector<double> squares(lse.size());
    z_loss(cpu(), z.data(), lse.data(), loss.data(), c.tokens, c.experts, 1e-3);
    z_loss_gradient(cpu(), z.data(), lse.data(), dloss.data(), dz.data(), c.tokens, c.experts, 1e-3);
    z_loss_squares(cpu(), z.data(), lse.data(), squares.data(), c.tokens, c.experts, 0.01);
    OnGpu<double> squares_there(c.tokens);
    OnGpu<T> z_there(z), lse_there(c.tokens), loss_there(1), dloss_there(dloss), dz_there(c.tokens * c.experts);
    z_loss(gpu(), z_there.data(), lse_there.data(), loss_there.data(), c.tokens, c.experts, 1e-3);
    z_loss_gradient(gpu(), z_there.data(), lse_there.data(), dloss_there.data(), dz_there.data(), c.tokens, c.experts,
                    1e-3);
    z_loss_squares(gpu(), z_there.data(), lse_there.data(), squares_there.data(), c.tokens, c.experts, 0.01);
    expect_close(squares_there.values(), squares, std::is_same_v<T, double> ? 10 : 1e7);  // exp is of T
    expect_close(lse_there.values(), lse, 5);
    expect_close(loss_there.values(), loss, 30);
    expect_close(dz_there.values(), dz);
  }
}

}  // namespace
}  // namespace limbeck::kernels
