#include "core/ops/moe_exchange.h"

#include <gmock/gmock.h>

#include <string>
#include <vector>

#include "tests/support/gradient_check.h"
#include "tests/support/tensors.h"

namespace limbeck::core {
namespace {

using testing::check_gradients;
using testing::random_tensor;

const auto memory = Memory::cpu(2);

// One rank that reverses its rows on the way out and counts its calls.
class ReversingComm final : public nn::ExpertComm {
 public:
  std::int64_t size() const override { return 1; }
  std::int64_t rank() const override { return 0; }
  nn::ExchangePtr prepare(const Tensor&, std::int64_t) override { return std::make_shared<nn::Exchange>(); }
  nn::RowsUnderWay start_dispatch(const nn::ExchangePtr&, const Tensor& rows) override {
    return [result = reversed(rows, dispatches)] { return result; };
  }
  nn::RowsUnderWay start_combine(const nn::ExchangePtr&, const Tensor& rows) override {
    return [result = reversed(rows, combines)] { return result; };
  }
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
    const Tensor selection = Tensor::zeros(memory, DType::I32, {rows, 1});
    for (nn::ExpertComm* comm : {static_cast<nn::ExpertComm*>(&reversing), single.get()}) {
      const auto exchange = comm->prepare(selection, 2);
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
    const auto exchange = comm.prepare({}, 2);
    Tape tape;
    const Var x = leaf(Tensor::zeros(memory, DType::F32, {rows, 3}));
    combine(tape, dispatch(tape, x, comm, exchange), comm, exchange);
    EXPECT_EQ(tape.num_steps(), 4U);  // each in two halves
    tape.run();
    EXPECT_EQ(comm.dispatches, 2);
    EXPECT_EQ(comm.combines, 2);
  }
}

/// Says what happens in which order.
class TellingComm final : public nn::ExpertComm {
 public:
  explicit TellingComm(std::vector<std::string>& told) : told_(told) {}
  std::int64_t size() const override { return 1; }
  std::int64_t rank() const override { return 0; }
  nn::ExchangePtr prepare(const Tensor&, std::int64_t) override { return std::make_shared<nn::Exchange>(); }
  nn::RowsUnderWay start_dispatch(const nn::ExchangePtr&, const Tensor& rows) override {
    return under_way("dispatch", rows);
  }
  nn::RowsUnderWay start_combine(const nn::ExchangePtr&, const Tensor& rows) override {
    return under_way("combine", rows);
  }

 private:
  nn::RowsUnderWay under_way(const std::string& what, const Tensor& rows) {
    told_.push_back(what + " starts");
    return [this, what, rows] {
      told_.push_back(what + " ends");
      return rows;
    };
  }
  std::vector<std::string>& told_;
};

std::vector<std::string> told_of_a_pass(Tape::WeightParts weight_parts) {
  std::vector<std::string> told;
  TellingComm comm(told);
  const auto exchange = comm.prepare({}, 2);
  Tape tape;
  tape.set_weight_parts(weight_parts);
  const auto work = [&](const std::string& name) {
    told.push_back(name);
    tape.push({"work",
               {},
               [&, name] { told.push_back(name + " back"); },
               {},
               [&, name] { told.push_back(name + " weight"); }});
  };
  DispatchUnderWay there(tape, leaf(Tensor::zeros(memory, DType::F32, {2, 3})), comm, exchange);
  work("beside");
  const Var rows = there.finish();
  work("experts");
  CombineUnderWay back(tape, rows, comm, exchange);
  work("behind");
  back.finish();
  work("last");
  tape.run();
  told.push_back("all back");
  tape.run_weight_parts();
  return told;
}

TEST(MoeExchange, OtherWorkGoesOnWhileRowsAreUnderWay) {
  EXPECT_THAT(told_of_a_pass(Tape::WeightParts::InWaits),
              ::testing::ElementsAre("dispatch starts", "beside", "dispatch ends", "experts", "combine starts",
                                     "behind", "combine ends", "last", "last back", "dispatch starts", "behind back",
                                     "last weight", "behind weight", "dispatch ends",  // of the combine's gradient
                                     "experts back", "combine starts", "beside back", "experts weight", "beside weight",
                                     "combine ends", "all back"));
  const auto left = told_of_a_pass(Tape::WeightParts::Queued);
  EXPECT_THAT(std::vector(left.end() - 5, left.end()),
              ::testing::ElementsAre("all back", "last weight", "behind weight", "experts weight", "beside weight"));
}

}  // namespace
}  // namespace limbeck::core
