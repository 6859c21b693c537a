#include "parallel/imagined/imagined_world.h"

#include <algorithm>
#include <condition_variable>
#include <map>
#include <mutex>
#include <numeric>
#include <thread>
#include <utility>
#include <vector>

#include "core/start_thread.h"

namespace limbeck::parallel {
namespace {

using core::CommHandle;
using core::Tensor;

struct Members {
  int id = 0;                                     // of the group
  std::shared_ptr<const std::vector<int>> ranks;  // in the world; all of them have one list
};

/// Where the ranks of a group say which part of it they are to be in.
class Meetings {
 public:
  /// The part that this rank, at place `at` of the group, is in after its `number`th cut.
  Members part_of(const Members& group, int at, int number, int color, int key) {
    std::unique_lock lock(mutex_);
    Meeting& meeting = meetings_[{group.id, number}];
    meeting.said.push_back({color, key, at});
    if (meeting.said.size() == group.ranks->size()) {
      std::ranges::sort(meeting.said);
      std::map<int, std::vector<int>> parts;
      for (const auto& [part, unused_key, place] : meeting.said)
        parts[part].push_back((*group.ranks)[static_cast<std::size_t>(place)]);
      for (auto& [part, ranks] : parts)
        meeting.parts[part] = {++num_groups_, std::make_shared<const std::vector<int>>(std::move(ranks))};
      meeting.come.notify_all();
    }
    meeting.come.wait(lock, [&] { return is_stopped_ || !meeting.parts.empty(); });
    if (meeting.parts.empty()) throw PeerError("an imagined rank has left");
    return meeting.parts.at(color);
  }
  void stop() {
    const std::scoped_lock lock(mutex_);
    is_stopped_ = true;
    for (auto& [unused_cut, meeting] : meetings_) meeting.come.notify_all();
  }

 private:
  struct Said {
    int color, key, at;
    friend auto operator<=>(const Said&, const Said&) = default;
  };
  struct Meeting {
    std::vector<Said> said;
    std::map<int, Members> parts;  // by color
    std::condition_variable come;  // of its own: who is in another meeting sleeps on
  };
  std::mutex mutex_;
  std::map<std::pair<int, int>, Meeting> meetings_;  // by group and number of the cut
  int num_groups_ = 0;
  bool is_stopped_ = false;
};

class ImaginedComm final : public WorldComm {
 public:
  ImaginedComm(std::shared_ptr<Meetings> meetings, Members members, int rank_in_world, int ranks_a_node,
               std::string name)
      : meetings_(std::move(meetings)),
        members_(std::move(members)),
        ranks_a_node_(ranks_a_node),
        name_(std::move(name)) {
    rank_ = static_cast<int>(std::ranges::find(*members_.ranks, rank_in_world) - members_.ranks->begin());
  }

  int rank() const override { return rank_; }
  int size() const override { return static_cast<int>(members_.ranks->size()); }
  const std::string& name() const override { return name_; }
  int in_world(int rank) const override { return members_.ranks->at(static_cast<std::size_t>(rank)); }
  int node_of(int rank) override { return ranks_a_node_ > 0 ? in_world(rank) / ranks_a_node_ : 0; }
  Engine& engine() override { core::fail("an imagined rank has no thread for exchanges"); }
  std::shared_ptr<WorldComm> split(int color, int key, const std::string& name) override {
    return std::make_shared<ImaginedComm>(meetings_, meetings_->part_of(members_, rank_, num_cuts_++, color, key),
                                          in_world(rank_), ranks_a_node_, name);
  }

  CommHandle all_reduce_async(Tensor, core::Reduce) override { return {}; }
  CommHandle all_gather_async(Tensor, Tensor) override { return {}; }
  CommHandle reduce_scatter_async(Tensor, Tensor) override { return {}; }
  CommHandle all_to_all_v_async(Tensor, std::span<const std::int64_t>, Tensor, std::span<const std::int64_t>) override {
    return {};
  }
  CommHandle send_async(Tensor, int) override { return {}; }
  CommHandle receive_async(Tensor, int) override { return {}; }
  CommHandle barrier_async() override { return {}; }
  void note_step(std::int64_t) override {}
  void abort(const std::string&) override { meetings_->stop(); }

 private:
  std::shared_ptr<Meetings> meetings_;
  Members members_;
  int ranks_a_node_;
  std::string name_;
  int rank_ = 0;
  int num_cuts_ = 0;
};

}  // namespace

void on_imagined_rank(int num_ranks, int rank, const std::function<void(const std::shared_ptr<WorldComm>&)>& body,
                      const std::function<void(const std::shared_ptr<WorldComm>&)>& groups, int ranks_a_node) {
  core::check(rank >= 0 && rank < num_ranks, "imagined ranks: {} of {}", rank, num_ranks);
  const auto meetings = std::make_shared<Meetings>();
  std::vector<int> ranks(static_cast<std::size_t>(num_ranks));
  std::iota(ranks.begin(), ranks.end(), 0);
  const Members all{0, std::make_shared<const std::vector<int>>(std::move(ranks))};
  const auto world_of = [&](int r) { return std::make_shared<ImaginedComm>(meetings, all, r, ranks_a_node, "world"); };
  std::vector<std::jthread> others;
  try {
    for (int r = 0; r < num_ranks; ++r)
      if (r != rank)
        others.push_back(core::start_thread("an imagined rank", [&groups, meetings, world = world_of(r)] {
          try {
            groups(world);
          } catch (const std::exception&) {
            meetings->stop();  // the rank that is watched fails likewise
          }
        }));
    body(world_of(rank));
  } catch (...) {
    meetings->stop();
    throw;
  }
}

}  // namespace limbeck::parallel
