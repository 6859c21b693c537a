// A layer's tokens in chunks: what travels while what is computed, and that the numbers are those of one chunk.
#include <gmock/gmock.h>

#include <algorithm>
#include <string>
#include <vector>

#include "core/nn/moe.h"
#include "core/parameter_set.h"
#include "tests/support/gradient_check.h"

namespace limbeck::nn {
namespace {

using testing::random_tensor;

constexpr std::int64_t tokens = 7, width = 4;
const auto memory = core::Memory::cpu(1);

/// One rank that keeps all rows; says when tokens, or their gradients, set out and when they are waited for.
class TellingComm final : public ExpertComm {
 public:
  std::int64_t size() const override { return 1; }
  std::int64_t rank() const override { return 0; }
  ExchangePtr prepare(const Tensor& selection, std::int64_t) override {
    rows.push_back(selection.shape()[0]);
    auto exchange = std::make_shared<Exchange>();
    exchange->selection = selection;
    exchange->num_rows = selection.numel();
    numbers_.push_back(exchange.get());
    return exchange;
  }
  RowsUnderWay start_dispatch(const ExchangePtr& exchange, const Tensor& x) override {
    return under_way("there", *exchange, x);
  }
  RowsUnderWay start_combine(const ExchangePtr& exchange, const Tensor& y) override {
    return under_way("back", *exchange, y);
  }
  std::vector<std::string> told;
  std::vector<std::int64_t> rows;  // of each chunk

 private:
  RowsUnderWay under_way(const std::string& what, const Exchange& exchange, const Tensor& x) {
    EXPECT_EQ(x.shape()[0], exchange.selection.shape()[0]);
    if (x.shape()[1] != width) return [x] { return x; };
    const auto number = std::find(numbers_.begin(), numbers_.end(), &exchange) - numbers_.begin();
    told.push_back(what + std::to_string(number) + " starts");
    return [this, x, end = what + std::to_string(number)] {
      told.push_back(end);
      return x;
    };
  }
  std::vector<const Exchange*> numbers_;
};

struct Passed {
  std::vector<std::string> told;
  std::vector<std::int64_t> rows;
  std::vector<double> y, dx, dgate, load;
};

Passed pass_in_chunks(std::int64_t chunks) {
  const auto comm = std::make_shared<TellingComm>();
  Communicators comms = single_communicators();
  comms.expert = comm;
  core::ParameterSet parameters({.memory = memory, .dtype = core::DType::F64});
  const Moe moe = make_moe(parameters, "moe", width,
                           {.num_experts = 5, .experts_per_token = 2, .expert_width = 3, .dense_layers = {}});
  for (core::Parameter* p : parameters.list()) core::init_normal(*p, 0.7, 3);
  Batch batch;
  batch.tokens = Tensor::zeros(memory, core::DType::I32, {tokens});
  batch.global_index = Tensor::zeros(memory, core::DType::I64, {tokens});
  Passed passed;
  Pass pass{.batch = batch, .comms = comms, .ropes = {}, .attention = {}, .expert_chunks = chunks};
  passed.load.assign(5, 0);
  pass.load = [&](std::int64_t, const Tensor& counts, const Tensor&) {
    const auto here = core::host_values<std::int64_t>(counts);
    for (std::size_t e = 0; e < here.size(); ++e) passed.load[e] += static_cast<double>(here[e]);
  };
  Tape tape;
  AuxiliaryLosses losses;
  const Var x = core::leaf(random_tensor(memory, {tokens, width}, 1));
  const Var y = moe.forward(tape, pass, x, losses);
  comm->told.push_back("turn");
  core::accumulate(y.slot, random_tensor(memory, {tokens, width}, 2));
  tape.run();
  passed.told = comm->told;
  passed.rows = comm->rows;
  passed.y = core::host_values<double>(y.value);
  passed.dx = core::host_values<double>(x.slot->grad);
  passed.dgate = core::host_values<double>(moe.gate->slot->grad);
  return passed;
}

void expect_near(const std::vector<double>& found, const std::vector<double>& expected) {
  ASSERT_EQ(found.size(), expected.size());
  for (std::size_t i = 0; i < found.size(); ++i) EXPECT_NEAR(found[i], expected[i], 1e-13);
}

TEST(MoeChunks, OneTravelsWhileTheExpertsComputeOnAnother) {
  const Passed passed = pass_in_chunks(3);
  EXPECT_THAT(passed.rows, ::testing::ElementsAre(2, 2, 3));
  EXPECT_THAT(passed.told,
              ::testing::ElementsAre("there0 starts", "there1 starts", "there0", "back0 starts", "there2 starts",
                                     "there1", "back1 starts", "back0", "there2", "back2 starts", "back1", "back2",
                                     "turn",  // and so the gradients, from the last to the first
                                     "there2 starts", "there1 starts", "there2", "back2 starts", "there0 starts",
                                     "there1", "back1 starts", "back2", "there0", "back0 starts", "back1", "back0"));
}

TEST(MoeChunks, NumbersAreThoseOfOneChunk) {
  const Passed whole = pass_in_chunks(1);
  EXPECT_THAT(whole.told, ::testing::ElementsAre("there0 starts", "there0", "back0 starts", "back0", "turn",
                                                 "there0 starts", "there0", "back0 starts", "back0"));
  for (const std::int64_t chunks : {2, 3, 9}) {  // of nine some have no token
    const Passed passed = pass_in_chunks(chunks);
    expect_near(passed.y, whole.y);
    expect_near(passed.dx, whole.dx);
    expect_near(passed.dgate, whole.dgate);
    EXPECT_EQ(passed.load, whole.load);
  }
}

}  // namespace
}  // namespace limbeck::nn
