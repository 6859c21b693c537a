// What goes on beside the sums of tensor parallelism; what they give is in tests/parallel/axes/tensor_cases.h.
#include "core/ops/tensor_exchange.h"

#include <gmock/gmock.h>

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "core/recompute.h"
#include "tests/support/gradient_check.h"

namespace limbeck::core {
namespace {

const auto memory = Memory::cpu(1);

/// One of two ranks, of which the other has zeros; says when sums start and end.
class TellingComm : public nn::TensorComm {
 public:
  explicit TellingComm(std::vector<std::string>& told) : told_(told) {}
  std::int64_t size() const override { return 2; }
  std::int64_t rank() const override { return 0; }
  nn::RowsUnderWay start_sum(Tensor x) override { return under_way(x); }
  void max(Tensor&) override {}
  nn::RowsUnderWay start_gather(const Tensor& part, int, std::int64_t total) override {
    const Tensor whole = Tensor::zeros(part.memory(), part.dtype(), {total, part.shape()[1]});
    whole.rows(0, part.shape()[0]).copy_from(part);
    return [whole] { return whole; };
  }
  nn::RowsUnderWay start_sum_share(const Tensor& x) override { return under_way(x.rows(0, x.shape()[0] / 2)); }

  std::vector<std::uint64_t> versions;  // of what is summed, as each sum starts

 private:
  nn::RowsUnderWay under_way(const Tensor& x) {
    told_.push_back("sum starts");
    versions.push_back(x.version());
    return [this, x] {
      told_.push_back("sum ends");
      return x;
    };
  }

 protected:
  std::vector<std::string>& told_;
};

/// Says the same of gathers. What one has given is zeros once another is waited for.
class GatheringComm final : public TellingComm {
 public:
  using TellingComm::TellingComm;
  nn::RowsUnderWay start_gather(const Tensor& part, int dimension, std::int64_t total) override {
    told_.push_back("gather starts");
    return [this, whole = TellingComm::start_gather(part, dimension, total)()] {
      told_.push_back("gather ends");
      if (before_.defined()) before_.fill_zero();
      return before_ = whole;
    };
  }

 private:
  Tensor before_;
};

/// Two blocks behind one another, each of which enters once and multiplies with two weights.
std::vector<std::string> told_of_a_pass(bool divides_sequence, bool recomputes, Tape::WeightParts weight_parts) {
  std::vector<std::string> told;
  TellingComm comm(told);
  Tape tape;
  tape.set_weight_parts(weight_parts);
  const auto block = [&](const std::string& name) {
    return Block([&, name](Tape& on, std::span<const Var> in) {
      const std::int64_t rows = in[0].shape()[0];
      const Var entered = divides_sequence ? enter_sequence(on, in[0], 2 * rows, comm) : enter(on, in[0], comm);
      for (const char* product : {" q", " k"})
        on.push({"product",
                 {},
                 [&told, is = name + product] { told.push_back(is); },
                 {},
                 [&told, is = name + product] { told.push_back(is + " weight"); }});
      return std::vector{divides_sequence ? scatter(on, entered, comm) : entered};
    });
  };
  std::vector<Var> x = {leaf(Tensor::zeros(memory, DType::F32, {2, 3}))};
  for (const char* name : {"first", "second"}) x = recomputes ? recompute(tape, x, block(name)) : block(name)(tape, x);
  accumulate(x[0].slot, Tensor::zeros(memory, DType::F32, {2, 3}));
  tape.run();
  told.push_back("all back");
  tape.run_weight_parts();
  return told;
}

TEST(TensorExchange, WeightsGetTheirGradientsWhileASumIsUnderWay) {
  for (const bool divides_sequence : {false, true})
    for (const bool recomputes : {false, true}) {
      EXPECT_THAT(told_of_a_pass(divides_sequence, recomputes, Tape::WeightParts::InWaits),
                  ::testing::ElementsAre("second k", "second q", "sum starts", "second k weight", "second q weight",
                                         "sum ends", "first k", "first q", "sum starts", "first k weight",
                                         "first q weight", "sum ends", "all back"));
      EXPECT_THAT(told_of_a_pass(divides_sequence, recomputes, Tape::WeightParts::AtOnce),
                  ::testing::ElementsAre("second k", "second k weight", "second q", "second q weight", "sum starts",
                                         "sum ends", "first k", "first k weight", "first q", "first q weight",
                                         "sum starts", "sum ends", "all back"));
      const auto left = told_of_a_pass(divides_sequence, recomputes, Tape::WeightParts::Queued);
      EXPECT_THAT(
          std::vector(left.end() - 5, left.end()),
          ::testing::ElementsAre("all back", "second k weight", "second q weight", "first k weight", "first q weight"));
    }
}

/// Between the starts of two sums is a product, which writes what the next is of.
TEST(TensorExchange, ARunOfTokensIsSummedWhileTheNextIsMultiplied) {
  for (const bool divides_sequence : {false, true}) {
    std::vector<std::string> told;
    TellingComm comm(told);
    Tape tape;
    const Var x = leaf(Tensor::zeros(memory, DType::F32, {7, 3})),
              weight = leaf(Tensor::zeros(memory, DType::F32, {5, 3}));
    const auto in_chunks = divides_sequence ? linear_exit_sequence : linear_exit;
    const Var y = in_chunks(tape, x, weight, Products::AsActivations, comm, 3);
    EXPECT_EQ(y.shape(), (Shape{divides_sequence ? 3 : 7, 5}));
    EXPECT_THAT(told,
                ::testing::ElementsAre("sum starts", "sum starts", "sum starts", "sum ends", "sum ends", "sum ends"));
    ASSERT_EQ(comm.versions.size(), 3U);
    EXPECT_LT(comm.versions[0], comm.versions[1]);
    EXPECT_LT(comm.versions[1], comm.versions[2]);
  }
}

/// All products of a run are made before the next is waited for, whose way here has begun by then.
TEST(TensorExchange, ARunOfTokensIsGatheredWhileTheOneBeforeIsMultiplied) {
  std::vector<std::string> told;
  GatheringComm comm(told);
  Tape tape;
  const Var x = leaf(testing::random_tensor(memory, {4, 3}, 1));
  const std::array weights = {leaf(testing::random_tensor(memory, {5, 3}, 2)),
                              leaf(testing::random_tensor(memory, {2, 3}, 3))};
  const std::vector<Var> made = enter_sequence_linear(tape, x, 9, weights, Products::AsActivations, comm, 3);
  EXPECT_THAT(told, ::testing::ElementsAre("gather starts", "gather starts", "gather ends", "gather starts",
                                           "gather ends", "gather ends"));
  const Tensor whole = Tensor::zeros(memory, DType::F64, {9, 3});
  whole.rows(0, 4).copy_from(x.value);
  Tape off(Tape::Mode::Off);
  ASSERT_EQ(made.size(), 2U);
  for (std::size_t i = 0; i < 2; ++i)
    EXPECT_EQ(host_values<double>(made[i].value), host_values<double>(linear(off, constant(whole), weights[i]).value));
}

/// Of two weights and of what they multiply; `told` of the backward alone.
std::vector<std::vector<double>> gradients_behind_enter(bool divides_sequence, std::int64_t chunks,
                                                        std::vector<std::string>& told, TellingComm& comm) {
  Tape tape;
  tape.set_weight_parts(Tape::WeightParts::InWaits);
  tape.on_parameter_done([&told](Parameter& p) { told.push_back(p.name); });
  std::array<Parameter, 2> parameters;
  for (std::size_t i = 0; i < 2; ++i) {
    Parameter& p = parameters[i];
    p.name = i == 0 ? "up" : "gate";
    p.value = testing::random_tensor(memory, {i == 0 ? 5 : 2, 3}, 2 + i);
    p.slot = std::make_shared<Slot>();
    p.slot->parameter = &p;
  }
  const std::array weights = {as_var(parameters[0]), as_var(parameters[1])};
  constexpr std::int64_t tokens = 9, share = 4;
  const Var x = leaf(testing::random_tensor(memory, {divides_sequence ? share : tokens, 3}, 1));
  constexpr Products products = Products::AsActivations;
  const std::vector<Var> made = divides_sequence
                                    ? enter_sequence_linear(tape, x, tokens, weights, products, comm, chunks)
                                    : enter_linear(tape, x, weights, products, comm, chunks);
  told.clear();
  comm.versions.clear();
  for (const Var& y : made) accumulate(y.slot, testing::random_tensor(memory, y.shape(), 7));
  tape.run();
  return {host_values<double>(x.slot->grad), host_values<double>(parameters[0].slot->grad),
          host_values<double>(parameters[1].slot->grad)};
}

/// Both products of a run are made before its sum starts, and no sum is waited for before the weights have their
/// gradients, for which the tokens are gathered again meanwhile.
TEST(TensorExchange, ARunOfAGradientIsSummedWhileTheNextIsMade) {
  for (const bool divides_sequence : {false, true}) {
    std::vector<std::string> told;
    TellingComm plain(told);
    GatheringComm comm(told);
    const auto whole = gradients_behind_enter(divides_sequence, 1, told, plain);
    EXPECT_EQ(gradients_behind_enter(divides_sequence, 3, told, comm), whole);
    if (divides_sequence)
      EXPECT_THAT(told, ::testing::ElementsAre("gather starts", "sum starts", "sum starts", "sum starts", "gather ends",
                                               "gate", "up", "sum ends", "sum ends", "sum ends"));
    else
      EXPECT_THAT(told, ::testing::ElementsAre("sum starts", "sum starts", "sum starts", "gate", "up", "sum ends",
                                               "sum ends", "sum ends"));
    // Runs of shares are tensors of their own, each written twice.
    EXPECT_EQ(comm.versions,
              divides_sequence ? (std::vector<std::uint64_t>{2, 2, 2}) : (std::vector<std::uint64_t>{2, 4, 6}));
  }
}

/// What a product that ends in shares of a sum gets back: a run is multiplied before the next is waited for.
TEST(TensorExchange, ARunOfAGradientIsGatheredWhileTheOneBeforeIsMultiplied) {
  std::vector<std::string> told;
  GatheringComm comm(told);
  const Tensor rows = testing::random_tensor(memory, {9, 3}, 1), values = testing::random_tensor(memory, {5, 3}, 2),
               dy = testing::random_tensor(memory, {4, 5}, 3), whole = Tensor::zeros(memory, DType::F64, {9, 5});
  whole.rows(0, 4).copy_from(dy);
  Tape tape, plain;
  const Var x = leaf(rows), weight = leaf(values), plain_x = leaf(rows), plain_weight = leaf(values);
  const Var y = linear_exit_sequence(tape, x, weight, Products::AsActivations, comm, 3);
  told.clear();
  accumulate(y.slot, dy);
  tape.run();
  EXPECT_THAT(told, ::testing::ElementsAre("gather starts", "gather starts", "gather ends", "gather starts",
                                           "gather ends", "gather ends"));
  accumulate(linear(plain, plain_x, plain_weight).slot, whole);
  plain.run();
  EXPECT_EQ(host_values<double>(x.slot->grad), host_values<double>(plain_x.slot->grad));
  EXPECT_EQ(host_values<double>(weight.slot->grad), host_values<double>(plain_weight.slot->grad));
}

}  // namespace
}  // namespace limbeck::core
