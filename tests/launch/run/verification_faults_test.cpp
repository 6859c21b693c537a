// `limbeck verify` sees a collective that is wrong, in each file of parallel/axes, and names a parameter that it
// spoils.
#include <gmock/gmock.h>

#include <algorithm>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "core/communicators.h"
#include "launch/run/run_config.h"
#include "launch/run/verification.h"
#include "launch/run/verified_layouts.h"
#include "tests/support/run_limbeck.h"
#include "tests/support/thread_ranks.h"

namespace limbeck {
namespace {

using core::CommHandle;
using core::DType;
using core::Tensor;
using ::testing::HasSubstr;
using ::testing::Not;
using World = std::shared_ptr<parallel::WorldComm>;

enum class Op : std::uint8_t { None, AllReduce, AllGather, ReduceScatter, AllToAll };

enum class Kind : std::uint8_t {
  Scaled,      // what comes is a hundredth too large
  Dropped,     // nothing comes from other ranks
  WrongGroup,  // the ranks of the group are others
  OfOneRank,   // what comes to the last rank is a hundredth too large
  Late,        // a rank gives what it should have given the time before
};

struct Fault {
  std::string group;
  Op op = Op::None;  // any of a wrong group
  Kind kind = Kind::Scaled;
};

bool is_float(const Tensor& x) { return x.dtype() == DType::F32 || x.dtype() == DType::F64; }

void scale(Tensor x, double by) {
  core::dispatch_float("fault", x.dtype(), [&]<class T>() {
    T* values = x.mutable_host<T>();
    for (std::int64_t i = 0; i < x.numel(); ++i) values[i] *= static_cast<T>(by);
  });
}

/// Does something more once an operation is done.
class Afterwards final : public CommHandle::Pending {
 public:
  Afterwards(CommHandle handle, std::function<void()> then) : handle_(std::move(handle)), then_(std::move(then)) {}
  void wait() override {
    handle_.wait();
    if (then_) std::exchange(then_, nullptr)();
  }

 private:
  CommHandle handle_;
  std::function<void()> then_;
};

/// A group, and those that are cut from it, with one fault.
class FaultyComm final : public parallel::WorldComm {
 public:
  FaultyComm(World group, World root, const Fault& fault)
      : group_(std::move(group)), root_(std::move(root)), fault_(fault) {}

  int rank() const override { return group_->rank(); }
  int size() const override { return group_->size(); }
  const std::string& name() const override { return group_->name(); }
  int in_world(int rank) const override { return group_->in_world(rank); }
  parallel::Engine& engine() override { return group_->engine(); }
  void note_step(std::int64_t step) override { group_->note_step(step); }
  void abort(const std::string& why) override { group_->abort(why); }

  World split(int color, int key, const std::string& name) override {
    World part;
    if (fault_.kind == Kind::WrongGroup && name == fault_.group) {
      // Of four ranks neighbours in the place of those that are two apart, and the other way round.
      const bool is_of_neighbours = name == "tp" || name == "experts" || name == "etp";
      part = root_->split(is_of_neighbours ? root_->rank() % 2 : root_->rank() / 2, root_->rank(), name);
    } else {
      part = group_->split(color, key, name);
    }
    return std::make_shared<FaultyComm>(part, root_, fault_);
  }

  CommHandle all_reduce_async(Tensor x, core::Reduce reduce) override {
    if (!is_wrong(Op::AllReduce, x)) return group_->all_reduce_async(x, reduce);
    if (fault_.kind == Kind::Dropped) return {};
    be_late(x);
    return spoiled(group_->all_reduce_async(x, reduce), x);
  }
  CommHandle all_gather_async(Tensor x, Tensor all) override {
    if (!is_wrong(Op::AllGather, x)) return group_->all_gather_async(x, all);
    be_late(x);
    return spoiled(group_->all_gather_async(x, all), all);
  }
  CommHandle reduce_scatter_async(Tensor all, Tensor x) override {
    if (!is_wrong(Op::ReduceScatter, x)) return group_->reduce_scatter_async(all, x);
    be_late(all);
    return spoiled(group_->reduce_scatter_async(all, x), x);
  }
  CommHandle all_to_all_v_async(Tensor send, std::span<const std::int64_t> send_rows, Tensor receive,
                                std::span<const std::int64_t> receive_rows) override {
    if (!is_wrong(Op::AllToAll, send)) return group_->all_to_all_v_async(send, send_rows, receive, receive_rows);
    be_late(send);
    return spoiled(group_->all_to_all_v_async(send, send_rows, receive, receive_rows), receive);
  }
  CommHandle send_async(Tensor x, int to) override { return group_->send_async(std::move(x), to); }
  CommHandle receive_async(Tensor x, int from) override { return group_->receive_async(std::move(x), from); }
  CommHandle barrier_async() override { return group_->barrier_async(); }

 private:
  bool is_wrong(Op op, const Tensor& x) const {
    return fault_.kind != Kind::WrongGroup && op == fault_.op && name() == fault_.group && is_float(x);
  }
  void be_late(Tensor& x) {
    if (fault_.kind != Kind::Late || rank() != 1) return;
    Tensor& before = given_[x.numel()];
    Tensor now = x.clone();
    x = x.clone();
    if (before.defined())
      x.copy_from(before);
    else
      x.fill_zero();
    before = now;
  }
  /// What has come, `result`, is made wrong.
  CommHandle spoiled(CommHandle handle, Tensor result) const {
    return CommHandle(std::make_shared<Afterwards>(
        std::move(handle), [kind = fault_.kind, is_last = rank() == size() - 1, result]() mutable {
          if (kind == Kind::Scaled || (kind == Kind::OfOneRank && is_last)) scale(result, 1.01);
          if (kind == Kind::Dropped) result.fill_zero();
        }));
  }

  World group_, root_;
  Fault fault_;
  std::map<std::int64_t, Tensor> given_;  // by its size
};

class VerificationFaults : public ::testing::Test {
 protected:
  VerificationFaults() : folder_("verification_faults") {}

  launch::RunConfig config(const std::string& item) const {
    const launch::LayoutItem layout = launch::parse_layout_item(item);
    const std::vector<std::string> sets = launch::settings_of(
        {"data.text=" + (folder_.path() / "text").string(), "data.cache_dir=" + (folder_.path() / "tokens").string(),
         "train.device=CPU", "model.vocabulary=260"},  // so that parts are of equal sizes
        layout);
    return launch::exact(launch::load_given_config({folder_.path() / "tiny.textproto"}, sets), DType::F64);
  }

  /// Of four ranks, by two steps; `ranks_a_node` as ThreadWorld takes it.
  launch::LayoutDifferences differences(const std::string& item, const Fault& fault, int ranks_a_node = 0) {
    const launch::RunConfig of_layout = config(item);
    const launch::Log log = launch::make_log(1);
    if (reference_.steps.empty()) reference_ = launch::steps_on_one_rank(of_layout, 2, log);
    launch::LayoutDifferences result;
    testing::run_ranks(
        4,
        [&](testing::RankWorld& world) {
          const auto faulty = std::make_shared<FaultyComm>(world.comm, world.comm, fault);
          const auto found = launch::differences_from(reference_, faulty, of_layout, log);
          if (world.rank == 0) result = *found;
        },
        std::chrono::seconds(60), ranks_a_node);
    return result;
  }

  /// That it fails, and by a gradient of that name.
  void expect_caught(const std::string& item, const Fault& fault, const ::testing::Matcher<std::string>& name,
                     int ranks_a_node = 0) {
    SCOPED_TRACE(fmt::format("{}: group {}, operation {}, fault {}", item, fault.group, static_cast<int>(fault.op),
                             static_cast<int>(fault.kind)));
    const launch::LayoutDifferences found = differences(item, fault, ranks_a_node);
    EXPECT_FALSE(found.within(1e-6));
    EXPECT_GT(found.gradient.difference, 1e-6);
    EXPECT_THAT(found.gradient.parameter, name);
    EXPECT_TRUE(reference_.start.contains(found.gradient.parameter));
    EXPECT_GE(found.gradient.step, 1);
  }

  testing::RunFolder folder_;
  launch::VerifiedSteps reference_;
};

constexpr std::array all_kinds = {Kind::Scaled, Kind::Dropped, Kind::WrongGroup, Kind::Late};
const ::testing::Matcher<std::string> of_experts = HasSubstr(".experts."), any = ::testing::_;

TEST_F(VerificationFaults, NoneIsFoundWhereThereIsNone) {
  for (const char* item : {"tp2ep2", "tp2+parallel.sequence_parallel=true"})
    EXPECT_TRUE(differences(item, {}).within(1e-11)) << item;
}

// parallel/axes/gradient_sync.cpp: the parameters of the very group, and no others.
TEST_F(VerificationFaults, SumsOfGradientsAreSeenByName) {
  for (const Kind kind : all_kinds) {
    expect_caught("tp2ep2", {"dp gradients", Op::AllReduce, kind}, Not(of_experts));
    expect_caught("tp2ep2", {"edp gradients", Op::AllReduce, kind}, of_experts);
    expect_caught("tp2+parallel.sequence_parallel=true", {"dp tp gradients", Op::AllReduce, kind},
                  ::testing::AnyOf(HasSubstr("norm"), HasSubstr("router")));
  }
}

/// Replicas that part are seen although the first one is right.
TEST_F(VerificationFaults, EveryReplicaCounts) {
  expect_caught("dp4", {"dp gradients", Op::AllReduce, Kind::OfOneRank}, Not(of_experts));
  expect_caught("dp4", {"edp gradients", Op::AllReduce, Kind::OfOneRank}, of_experts);
}

// parallel/axes/communicators.cpp
TEST_F(VerificationFaults, ExchangesOfATensorGroupAreSeen) {
  const std::string whole = "tp2ep2", divided = "tp2ep2+parallel.sequence_parallel=true";
  for (const Kind kind : all_kinds) {
    expect_caught(whole, {"tp", Op::AllReduce, kind}, any);
    expect_caught(whole, {"tp", Op::AllGather, kind}, any);
    expect_caught(divided, {"tp", Op::AllGather, kind}, any);
    expect_caught(divided, {"tp", Op::ReduceScatter, kind}, any);
  }
}

TEST_F(VerificationFaults, SumsOverTheBatchAreSeen) {
  for (const Kind kind : {Kind::Scaled, Kind::Dropped, Kind::Late}) {
    const launch::LayoutDifferences found = differences("dp2tp2", {"dp", Op::AllReduce, kind});
    EXPECT_GT(found.loss, 1e-6);  // of which it is the sum; gradients are of other groups
  }
}

// parallel/axes/expert_comm.cpp
TEST_F(VerificationFaults, ExchangesOfExpertsRowsAreSeen) {
  for (const Kind kind : all_kinds)
    for (const auto& [item, group] : {std::pair("ep2", "experts"), {"tp2ep2", "experts"}, {"etp2", "etp"}})
      expect_caught(item, {group, Op::AllToAll, kind}, any);
}

// Tokens that go by way of another rank of their node, of which there are two, or three and one.
TEST_F(VerificationFaults, NoneIsFoundWhereTokensCrossOnceANode) {
  for (const char* item : {"ep4", "ep2etp2", "etp4", "tp2ep4+parallel.sequence_parallel=true",
                           "ep4+train.recompute=true+batch.micro_batches=2", "ep4+parallel.expert_replicas=2"})
    for (const int a_node : {2, 3}) {
      const launch::LayoutDifferences found = differences(item, {}, a_node);
      EXPECT_TRUE(found.within(1e-11)) << item << " " << a_node << ": " << found.gradient.difference << " of "
                                       << found.gradient.parameter;
    }
}

TEST_F(VerificationFaults, ExchangesInsideANodeAreSeen) {
  for (const Kind kind : {Kind::Scaled, Kind::Dropped, Kind::Late})
    expect_caught("ep4", {"experts inside", Op::AllToAll, kind}, any, /*ranks_a_node=*/2);
}

// parallel/axes/mesh.cpp
TEST_F(VerificationFaults, GroupsOfOtherRanksAreSeen) {
  for (const char* group : {"dp", "edp"}) expect_caught("tp2ep2", {group, Op::None, Kind::WrongGroup}, any);
}

}  // namespace
}  // namespace limbeck
