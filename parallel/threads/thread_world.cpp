#include "parallel/threads/thread_world.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>
#include <tuple>
#include <vector>

#include "core/slice.h"
#include "parallel/comm/queued_comm.h"
#include "parallel/comm/reduce.h"

namespace limbeck::parallel {

using core::check;

namespace {

/// Where ranks meet for one operation. Every rank posts its call; when all are there, each does its share of the
/// copying on the others' buffers; when all have done so, the operation is done.
struct Gathering {
  std::vector<Call> calls;
  std::vector<bool> has_arrived;
  int num_arrived = 0;
  int num_finished = 0;
};

/// The share of rank `r`: its slice of a reduction, or everything that it receives. `members` are the group's ranks in
/// the world.
void do_share(std::vector<Call>& calls, int r, const std::vector<int>& members) {
  Call& mine = calls[static_cast<std::size_t>(r)];
  const auto size = static_cast<int>(calls.size());
  const auto copy = [](std::byte* to, const std::byte* from, std::int64_t bytes) {
    if (bytes > 0) std::memcpy(to, from, static_cast<std::size_t>(bytes));
  };
  switch (mine.signature.kind) {
    case CallKind::AllReduce: {
      const core::Slice slice = core::slice_of(mine.signature.count, r, size);
      const std::int64_t first = core::bytes_of(mine.signature.dtype, slice.first);
      std::vector<const std::byte*> from;
      std::vector<std::byte*> to;
      for (const Call& call : calls) {
        from.push_back(call.in + first);
        to.push_back(call.out + first);
      }
      reduce(mine.signature.dtype, mine.signature.reduce, from, to, slice.count);
      break;
    }
    case CallKind::ReduceScatter: {
      std::vector<const std::byte*> from;
      for (const Call& call : calls) from.push_back(call.in + r * mine.bytes());
      reduce(mine.signature.dtype, core::Reduce::Sum, from, std::span(&mine.out, 1), mine.signature.count);
      break;
    }
    case CallKind::AllGather:
      for (int s = 0; s < size; ++s)
        copy(mine.out + s * mine.bytes(), calls[static_cast<std::size_t>(s)].in, mine.bytes());
      break;
    case CallKind::AllToAllV: {
      const std::int64_t row = mine.bytes();
      for (std::size_t s = 0; s < calls.size(); ++s) {
        const Call& from = calls[s];
        const auto me = static_cast<std::size_t>(r);
        const std::int64_t bytes = mine.receive_offset[s + 1] - mine.receive_offset[s];
        const std::int64_t sent = from.send_offset[me + 1] - from.send_offset[me];
        check(bytes == sent, "all_to_all_v: rank {} sends {} rows to rank {}, which expects {}", members[s],
              row > 0 ? sent / row : 0, members[me], row > 0 ? bytes / row : 0);
        copy(mine.out + mine.receive_offset[s], from.in + from.send_offset[me], bytes);
      }
      break;
    }
    case CallKind::Receive:
      copy(mine.out, calls[static_cast<std::size_t>(1 - r)].in, mine.bytes());
      break;
    case CallKind::Send:
    case CallKind::Barrier:
      break;
  }
}

}  // namespace

struct ThreadWorld::Group {
  int id = 0;
  std::string name;
  std::vector<int> members;  // world ranks
  std::mutex mutex;
  // Operations under way, by sender and receiver (-1, -1: everybody) and sequence number.
  std::map<std::tuple<int, int, std::int64_t>, std::shared_ptr<Gathering>> gatherings;
};

struct ThreadWorld::State {
  Deadline deadline;
  std::mutex mutex;
  std::map<std::tuple<int, std::int64_t, int>, std::shared_ptr<Group>> groups;  // by parent, its split's number, color
  int next_group = 0;
  std::vector<std::unique_ptr<Engine>> engines;

  ~State() {
    for (const auto& engine : engines) engine->stop();  // all threads end before any engine goes
  }
  void stop(int origin, const std::string& why) {
    for (const auto& engine : engines) engine->fail(origin, why);
  }
  HeldUp who_is_missing(const std::vector<Missing>& missing) const {
    return tell_missing(missing, [&](int rank) { return engines[static_cast<std::size_t>(rank)]->whereabouts(); });
  }
  std::shared_ptr<Group> make_group(std::string name, std::vector<int> members) {
    auto group = std::make_shared<Group>();
    group->id = next_group++;
    group->name = std::move(name);
    group->members = std::move(members);
    return group;
  }
};

/// One rank's view of one operation.
class ThreadWorld::Meeting final : public Operation {
 public:
  Meeting(State& state, std::shared_ptr<Group> group, int rank, Call call, std::int64_t sequence)
      : state_(state), group_(std::move(group)), rank_(rank), call_(std::move(call)), sequence_(sequence) {
    // A send and its receive meet as a group of two, the sender first.
    const bool is_send = call_.signature.kind == CallKind::Send;
    if (is_send || call_.signature.kind == CallKind::Receive) {
      participants_ = is_send ? std::vector{rank_, call_.peer} : std::vector{call_.peer, rank_};
      key_ = {participants_[0], participants_[1], sequence_};
      index_ = is_send ? 0 : 1;
    } else {
      for (int r = 0; r < static_cast<int>(group_->members.size()); ++r) participants_.push_back(r);
      key_ = {-1, -1, sequence_};
      index_ = rank_;
    }
  }

  bool progress() override {
    if (!gathering_) arrive();
    if (!has_shared_) {
      {
        const std::scoped_lock lock(group_->mutex);
        if (gathering_->num_arrived < num_participants()) return false;
      }
      do_share(gathering_->calls, index_, group_->members);
      has_shared_ = true;
      leave();
    }
    const std::scoped_lock lock(group_->mutex);
    return gathering_->num_finished == num_participants();
  }

  std::vector<Missing> waits_for() const override {
    const std::scoped_lock lock(group_->mutex);
    const auto found = group_->gatherings.find(key_);
    if (found == group_->gatherings.end()) return {};
    std::vector<Missing> missing;
    for (std::size_t i = 0; i < participants_.size(); ++i)
      if (!found->second->has_arrived[i]) missing.push_back({.rank = in_world(participants_[i]), .heard = {}});
    return missing;
  }

 private:
  int num_participants() const { return static_cast<int>(participants_.size()); }
  int in_world(int rank) const { return group_->members[static_cast<std::size_t>(rank)]; }

  void arrive() {
    const auto me = static_cast<std::size_t>(index_);
    const std::scoped_lock lock(group_->mutex);
    std::shared_ptr<Gathering>& place = group_->gatherings[key_];
    if (!place) {
      place = std::make_shared<Gathering>();
      place->calls.resize(participants_.size());
      place->has_arrived.resize(participants_.size());
    }
    gathering_ = place;
    for (std::size_t other = 0; other < participants_.size(); ++other)
      check(!place->has_arrived[other] || matches(place->calls[other].signature, call_.signature), "{}",
            mismatch(group_->name, sequence_, in_world(participants_[other]), place->calls[other].signature,
                     in_world(rank_), call_.signature));
    place->calls[me] = std::move(call_);
    place->has_arrived[me] = true;
    if (++place->num_arrived == num_participants()) wake_others();
  }

  void leave() {
    const std::scoped_lock lock(group_->mutex);
    if (++gathering_->num_finished < num_participants()) return;
    gathering_->calls.clear();  // the tensors go before anybody hears that the operation is done
    group_->gatherings.erase(key_);
    wake_others();
  }

  void wake_others() {
    for (const int r : participants_)
      if (r != rank_) state_.engines[static_cast<std::size_t>(in_world(r))]->notify();
  }

  State& state_;
  std::shared_ptr<Group> group_;
  int rank_;
  Call call_;
  std::int64_t sequence_;
  std::vector<int> participants_;  // ranks in the group
  std::tuple<int, int, std::int64_t> key_;
  int index_ = 0;  // of this rank among the participants
  std::shared_ptr<Gathering> gathering_;
  bool has_shared_ = false;
};

class ThreadWorld::Member final : public QueuedComm {
 public:
  Member(std::shared_ptr<State> state, std::shared_ptr<Group> group, int rank)
      : QueuedComm(group->id, group->name, rank, static_cast<int>(group->members.size())),
        state_(std::move(state)),
        group_(std::move(group)) {}

  std::shared_ptr<WorldComm> split(int color, int key, const std::string& name) override {
    Split mine = agree_on_split(color, key, 0);
    for (int& r : mine.ranks) r = group_->members[static_cast<std::size_t>(r)];
    const std::scoped_lock lock(state_->mutex);
    std::shared_ptr<Group>& group = state_->groups[{group_->id, num_splits_++, color}];
    if (!group) group = state_->make_group(name, std::move(mine.ranks));
    return std::make_shared<Member>(state_, group, mine.rank);
  }

  void abort(const std::string& why) override { state_->stop(world_rank(), why); }
  Engine& engine() override { return *state_->engines[static_cast<std::size_t>(world_rank())]; }
  int in_world(int rank) const override { return group_->members[static_cast<std::size_t>(rank)]; }

 private:
  int world_rank() const { return in_world(rank()); }
  std::shared_ptr<Operation> make_operation(Call call, std::int64_t sequence) override {
    return std::make_shared<Meeting>(*state_, group_, rank(), std::move(call), sequence);
  }

  std::shared_ptr<State> state_;
  std::shared_ptr<Group> group_;
  std::int64_t num_splits_ = 0;
};

ThreadWorld::ThreadWorld(int num_ranks, Deadline deadline, int ranks_a_node) : state_(std::make_shared<State>()) {
  if (num_ranks < 1) core::fail_usage("ranks: {}, expected 1 or more", num_ranks);
  state_->deadline = deadline;
  std::vector<int> everybody, nodes;
  for (int r = 0; r < num_ranks; ++r) {
    everybody.push_back(r);
    nodes.push_back(ranks_a_node > 0 ? r / ranks_a_node : 0);
  }
  for (int r = 0; r < num_ranks; ++r)
    state_->engines.push_back(std::make_unique<Engine>(
        r, deadline,
        Engine::World{.stop = [s = state_.get(), r](const std::string& why) { s->stop(r, why); },
                      .who_is_missing = [s = state_.get()](const auto& missing) { return s->who_is_missing(missing); },
                      .node_of = nodes}));
  for (const auto& engine : state_->engines) engine->start();
  state_->groups[{-1, 0, 0}] = state_->make_group("world", std::move(everybody));
}

ThreadWorld::~ThreadWorld() = default;

int ThreadWorld::size() const { return static_cast<int>(state_->engines.size()); }

std::shared_ptr<WorldComm> ThreadWorld::comm(int rank) {
  check(rank >= 0 && rank < size(), "world: rank {} of {}", rank, size());
  const std::scoped_lock lock(state_->mutex);
  return std::make_shared<Member>(state_, state_->groups.at({-1, 0, 0}), rank);
}

}  // namespace limbeck::parallel
