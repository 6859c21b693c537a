#include "parallel/comm/traffic.h"

#include <gtest/gtest.h>

#include "parallel/comm/engine.h"
#include "parallel/comm/queued_comm.h"

namespace limbeck::parallel {
namespace {

TEST(CommAxis, IsThatOfTheGroupsName) {
  const std::vector<std::pair<const char*, CommAxis>> expected = {{"dp", CommAxis::Dp},
                                                                  {"cp", CommAxis::Cp},
                                                                  {"tp", CommAxis::Tp},
                                                                  {"pp", CommAxis::Pp},
                                                                  {"etp", CommAxis::Etp},
                                                                  {"edp", CommAxis::Edp},
                                                                  {"data", CommAxis::Dp},
                                                                  {"experts", CommAxis::Ep},
                                                                  {"dp gradients sharers", CommAxis::Dp},
                                                                  {"", CommAxis::World},
                                                                  {"dp tp gradients", CommAxis::Dp},
                                                                  {"edp gradients", CommAxis::Edp},
                                                                  {"pp gradients", CommAxis::Pp},
                                                                  {"world", CommAxis::World},
                                                                  {"stage", CommAxis::World},
                                                                  {"dpx", CommAxis::World}};
  for (const auto& [name, axis] : expected) EXPECT_EQ(axis_of(name), axis) << name;
}

/// Rank 1 of four, on two nodes, whose operations do nothing.
class OnTwoNodes final : public QueuedComm {
 public:
  explicit OnTwoNodes(std::string name) : QueuedComm(0, std::move(name), 1, 4) { engine_.start(); }
  std::shared_ptr<WorldComm> split(int, int, const std::string&) override { return nullptr; }
  void abort(const std::string&) override {}
  Engine& engine() override { return engine_; }
  int in_world(int rank) const override { return 10 + rank; }

 private:
  struct Nothing final : Operation {
    bool progress() override { return true; }
  };
  std::shared_ptr<Operation> make_operation(Call, std::int64_t) override { return std::make_shared<Nothing>(); }
  std::int64_t told_whole() const override { return 16; }

  Engine engine_{11, std::chrono::seconds(10),
                 Engine::World{.stop = [](const std::string&) {},
                               .who_is_missing = [](const auto&) { return HeldUp(); },
                               .node_of = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 4, 12, 12}}};
};

TEST(CommTally, TellsNodesApart) {
  const auto memory = core::Memory::cpu(1);
  OnTwoNodes group("data");
  const auto expect = [&](std::int64_t inside, std::int64_t across) {
    const Traffic traffic = group.engine().tally().take();
    EXPECT_EQ(traffic.at(CommAxis::Dp, Traffic::BytesInside), inside);
    EXPECT_EQ(traffic.at(CommAxis::Dp, Traffic::BytesAcross), across);
  };
  const auto zeros = [&](const core::Shape& shape) { return core::Tensor::zeros(memory, core::DType::F32, shape); };
  group.all_gather(zeros({5}), zeros({20}));
  expect(20, 40);
  const std::vector<std::int64_t> rows = {1, 2, 3, 4};
  group.all_to_all_v(zeros({10, 2}), rows, zeros({10, 2}), rows);
  expect(8, 24 + 32);
  group.send(zeros({3}), 2);
  expect(0, 12);
  group.send(zeros({3}), 0);
  expect(12, 0);
  // Slices of 1, 2, 2 and 2: to rank 0 its one and the two sums from here, to the others two and two.
  group.all_reduce(zeros({7}), core::Reduce::Sum);
  expect(4 * 3, 4 * 8);
  group.all_reduce(zeros({4}), core::Reduce::Max);  // told whole
  expect(16, 32);
}

TEST(Traffic, AddsUp) {
  CommTally tally;
  tally.waited(CommAxis::Ep, std::chrono::nanoseconds(5));
  tally.sent(CommAxis::Ep, false, 7);
  Traffic sum = tally.take();
  EXPECT_FALSE(tally.take().has(CommAxis::Ep));
  tally.waited(CommAxis::Ep, std::chrono::nanoseconds(30));
  sum += tally.take();
  EXPECT_EQ(sum.at(CommAxis::Ep, Traffic::WaitedNs), 35);
  EXPECT_EQ(sum.at(CommAxis::Ep, Traffic::BytesAcross), 7);
  EXPECT_FALSE(sum.has(CommAxis::Etp));
}

}  // namespace
}  // namespace limbeck::parallel
