// Every exchange of a step says what it is of, so that a message of a hang can.
#include <fmt/format.h>
#include <gmock/gmock.h>

#include <memory>
#include <mutex>
#include <set>
#include <span>
#include <string>
#include <utility>

#include "core/exchanges_of.h"
#include "tests/support/layouts.h"
#include "tests/support/thread_ranks.h"

namespace limbeck {
namespace {

using core::CommHandle;
using core::Tensor;
using ::testing::AllOf;
using ::testing::Contains;
using ::testing::EndsWith;
using ::testing::Not;
using ::testing::StartsWith;

/// Notes what this rank's exchanges are of, in the groups that are cut from it too.
class NotingComm final : public parallel::WorldComm {
 public:
  using World = std::shared_ptr<parallel::WorldComm>;
  using Subjects = std::shared_ptr<std::set<std::string>>;

  NotingComm(World group, Subjects said) : group_(std::move(group)), said_(std::move(said)) {}

  int rank() const override { return group_->rank(); }
  int size() const override { return group_->size(); }
  const std::string& name() const override { return group_->name(); }
  int in_world(int rank) const override { return group_->in_world(rank); }
  parallel::Engine& engine() override { return group_->engine(); }
  void note_step(std::int64_t step) override { group_->note_step(step); }
  void abort(const std::string& why) override { group_->abort(why); }
  World split(int color, int key, const std::string& name) override {
    return std::make_shared<NotingComm>(group_->split(color, key, name), said_);
  }

  CommHandle all_reduce_async(Tensor x, core::Reduce reduce) override { return noted().all_reduce_async(x, reduce); }
  CommHandle all_gather_async(Tensor x, Tensor all) override { return noted().all_gather_async(x, all); }
  CommHandle reduce_scatter_async(Tensor all, Tensor x) override { return noted().reduce_scatter_async(all, x); }
  CommHandle all_to_all_v_async(Tensor send, std::span<const std::int64_t> send_rows, Tensor receive,
                                std::span<const std::int64_t> receive_rows) override {
    return noted().all_to_all_v_async(send, send_rows, receive, receive_rows);
  }
  CommHandle send_async(Tensor x, int to) override { return noted().send_async(x, to); }
  CommHandle receive_async(Tensor x, int from) override { return noted().receive_async(x, from); }
  CommHandle barrier_async() override { return noted().barrier_async(); }

 private:
  parallel::WorldComm& noted() {
    if (size() > 1) said_->insert(core::describe(core::ExchangesOf::now()));
    return *group_;
  }

  World group_;
  Subjects said_;
};

/// Of a step with three micro-batches, and the norm of its gradients, by all ranks.
std::set<std::string> subjects_of(const char* layout, int ranks, bool sequence_parallel = false) {
  std::set<std::string> all;
  std::mutex mutex;
  testing::run_ranks(ranks, [&](testing::RankWorld& world) {
    const auto said = std::make_shared<std::set<std::string>>();
    launch::Rank rank(std::make_shared<NotingComm>(world.comm, said), layout, 1, sequence_parallel);
    said->clear();  // what is agreed on at the start
    testing::expect_golden(rank, "moe.h5", core::DType::F64, {.micro_batches = 3, .expert_chunks = 2});
    const std::scoped_lock lock(mutex);
    all.insert(said->begin(), said->end());
  });
  return all;
}

TEST(ExchangesOfAStep, AreSaid) {
  for (const auto& said : {subjects_of("dp2", 2), subjects_of("cp2", 2)}) {
    EXPECT_THAT(said, Not(Contains("")));
    EXPECT_THAT(said, Contains("losses of the step"));
    EXPECT_THAT(said, Contains("tokens of each expert"));
    EXPECT_THAT(said, Contains("norms of gradients"));
  }
  EXPECT_THAT(subjects_of("tp2ep2", 2, true), Not(Contains("")));
  const std::set<std::string> said = subjects_of("pp2ep2", 4);
  EXPECT_THAT(said, Not(Contains("")));
  EXPECT_THAT(said, Contains(StartsWith("gradients of layers.")));
  EXPECT_THAT(said, Contains(AllOf(StartsWith("experts of layer "), EndsWith(", dispatch"))));
  EXPECT_THAT(said, Contains(AllOf(StartsWith("experts of layer "), EndsWith(", combine"))));
  for (const int micro_batch : {0, 1, 2}) {
    EXPECT_THAT(said, Contains(fmt::format("micro-batch {}, stream to the next stage", micro_batch)));
    EXPECT_THAT(said, Contains(fmt::format("micro-batch {}, gradient to the stage before", micro_batch)));
  }
  EXPECT_THAT(subjects_of("tp2", 2), AllOf(Contains("micro-batch 1, forward"), Contains("micro-batch 1, backward")));
}

}  // namespace
}  // namespace limbeck
