#include "core/ops/moe_exchange.h"

#include <gmock/gmock.h>

#include "tests/support/gradient_check.h"
#include "tests/support/tensors.h"

namespace limbeck::core {
namespace {

using testing::check_gradients;
using testing::random_tensor;
using testing::tensor;

const auto memory = Memory::cpu(2);

// One rank that reverses its rows on the way out and counts its calls.
class ReversingComm final : public nn::ExpertComm {
 public:
  std::int64_t size() const override { return 1; }
  std::int64_t rank() const override { return 0; }
  nn::ExchangePtr prepare(const Tensor&, std::int64_t, Tensor&) override { return std::make_shared<nn::Exchange>(); }
  Tensor dispatch_rows(const nn::Exchange&, const Tensor& rows) override { return reversed(rows, dispatches); }
  Tensor combine_rows(const nn::Exchange&, const Tensor& rows) override { return reversed(rows, combines); }
  int dispatches = 0, combines = 0;

 private:
  static Tensor reversed(const Tensor& rows, int& calls) {
    ++calls;
    Tensor result = empty_like(rows);
    const std::int64_t n = rows.shape()[0];
    for (std::int64_t r = 0; r < n; ++r) result.rows(r, 1).copy_from(rows.rows(n - 1 - r, 1));
    return result;
  }
};

TEST(MoeExchange, Gradients) {
  ReversingComm reversing;
  const auto single = nn::single_communicators().expert;
  for (const std::int64_t rows : {0, 1, 5}) {
    const Tensor counts = tensor<std::int64_t>(memory, {2}, {rows, 0});
    Tensor offsets = Tensor::zeros(memory, DType::I64, {3});
    for (nn::ExpertComm* comm : {static_cast<nn::ExpertComm*>(&reversing), single.get()}) {
      const auto exchange = comm->prepare(counts, rows, offsets);
      check_gradients([&](Tape& tape, std::span<const Var> in) { return dispatch(tape, in[0], *comm, exchange); },
                      {random_tensor(memory, {rows, 3}, 1)});
      check_gradients([&](Tape& tape, std::span<const Var> in) { return combine(tape, in[0], *comm, exchange); },
                      {random_tensor(memory, {rows, 3}, 1)});
    }
  }
}

// Peers wait for every collective: no rank may leave one out, even without rows or without a gradient.
TEST(MoeExchange, CallsMatchAlsoWithoutRowsAndGradient) {
  for (const std::int64_t rows : {0, 4}) {
    ReversingComm comm;
    Tensor offsets;
    const auto exchange = comm.prepare({}, rows, offsets);
    Tape tape;
    const Var x = leaf(Tensor::zeros(memory, DType::F32, {rows, 3}));
    combine(tape, dispatch(tape, x, comm, exchange), comm, exchange);
    EXPECT_EQ(tape.num_steps(), 2U);
    tape.run();
    EXPECT_EQ(comm.dispatches, 2);
    EXPECT_EQ(comm.combines, 2);
  }
}

}  // namespace
}  // namespace limbeck::core
