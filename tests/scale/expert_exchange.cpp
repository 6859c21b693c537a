#include "tests/scale/expert_exchange.h"

#include <algorithm>
#include <deque>
#include <random>

namespace limbeck::scale {

namespace {

/// An exchange within groups of `size` ranks that lie `stride` apart.
struct Leg {
  int stride, size;
  double rows = 0;  // that a rank sends to each other of its group

  int place_of(int rank) const { return rank / stride % size; }
  int member(int rank, int place) const { return rank + (place - place_of(rank)) * stride; }
};

/// Draws the experts of a token.
class Router {
 public:
  Router(const SimulatedCluster& machines, const ExchangeShape& shape, bool few_nodes)
      : random_(shape.seed),
        count_(shape.experts_per_token),
        nodes_(machines.num_nodes()),
        experts_a_node_(shape.num_experts(machines.num_ranks()) / machines.num_nodes()),
        chosen_nodes_(few_nodes ? std::min(shape.max_nodes, nodes_) : nodes_) {}

  /// Without repetition.
  std::vector<int> draw() {
    std::vector<int> experts;
    if (chosen_nodes_ < nodes_) {
      const std::vector<int> nodes = distinct(chosen_nodes_, nodes_);
      for (const int expert : distinct(count_, chosen_nodes_ * experts_a_node_))
        experts.push_back(nodes[expert / experts_a_node_] * experts_a_node_ + expert % experts_a_node_);
    } else {
      experts = distinct(count_, nodes_ * experts_a_node_);
    }
    return experts;
  }

 private:
  std::vector<int> distinct(int count, int below) {
    std::uniform_int_distribution<int> any(0, below - 1);
    std::vector<int> drawn;
    while (static_cast<int>(drawn.size()) < count) {
      const int x = any(random_);
      if (std::ranges::find(drawn, x) == drawn.end()) drawn.push_back(x);
    }
    return drawn;
  }

  std::mt19937_64 random_;
  int count_, nodes_, experts_a_node_, chosen_nodes_;
};

/// How many different values there are of x / width.
std::size_t count_distinct(std::vector<int> values, int width) {
  for (int& x : values) x /= width;
  std::ranges::sort(values);
  return static_cast<std::size_t>(std::unique(values.begin(), values.end()) - values.begin());
}

/// In the order of the dispatch.
std::vector<Leg> make_legs(const SimulatedCluster& machines, Dispatch dispatch, const ExchangeShape& shape) {
  const int ranks = machines.num_ranks(), nodes = machines.num_nodes(), node_size = machines.ranks_a_node();
  const int experts_a_rank = shape.num_experts(ranks) / ranks;
  Router router(machines, shape, dispatch == Dispatch::ByFewNodes);
  double to_ranks = 0, to_nodes = 0;  // of all that were drawn
  for (int token = 0; token < shape.drawn_tokens; ++token) {
    const std::vector<int> experts = router.draw();
    to_ranks += static_cast<double>(count_distinct(experts, dispatch == Dispatch::ByExpert ? 1 : experts_a_rank));
    to_nodes += static_cast<double>(count_distinct(experts, experts_a_rank * node_size));
  }
  const double share = static_cast<double>(shape.tokens) / shape.drawn_tokens;
  // All ranks of a node hand on to each of its ranks what goes to that one.
  const double rows_to_rank = to_ranks * share / ranks, handed_on = rows_to_rank * nodes;
  if (dispatch == Dispatch::ByExpert || dispatch == Dispatch::ByRank) return {{1, ranks, rows_to_rank}};
  return {{node_size, nodes, to_nodes * share / nodes}, {1, node_size, handed_on}};
}

/// One rank's part: in turn with the members whose places differ from its own by 1, 2, 3, ... in binary, so that each
/// turn pairs the ranks (Thakur, Rabenseifner and Gropp 2005, section 4.4).
void exchange(const Leg& leg, const Channel& channel, int rank, const ExchangeShape& shape) {
  std::deque<simgrid::s4u::CommPtr> under_way;
  const auto end_first_turn = [&] {
    under_way.front()->wait();
    under_way.pop_front();
    channel.receive(rank);
  };
  for (int turn = 1; turn < leg.size; ++turn) {
    if (static_cast<int>(under_way.size()) == shape.in_flight) end_first_turn();
    under_way.push_back(channel.send(leg.member(rank, leg.place_of(rank) ^ turn), leg.rows * shape.row_bytes));
  }
  while (!under_way.empty()) end_first_turn();
}

}  // namespace

ExchangeTimes simulate_exchange(SimulatedCluster& machines, Dispatch dispatch, const ExchangeShape& shape) {
  const std::vector<Leg> legs = make_legs(machines, dispatch, shape);
  std::vector<Channel> there, back;
  std::vector<const Channel*> all;
  for (std::size_t leg = 0; leg < legs.size(); ++leg) {
    there.emplace_back("dispatch_" + std::to_string(leg), machines);
    back.emplace_back("combine_" + std::to_string(leg), machines);
  }
  for (std::size_t leg = 0; leg < legs.size(); ++leg) all.insert(all.end(), {&there[leg], &back[leg]});

  ExchangeTimes times;
  const auto barrier = simgrid::s4u::Barrier::create(static_cast<unsigned>(machines.num_ranks()));
  for (int rank = 0; rank < machines.num_ranks(); ++rank)
    machines.start(rank, all, [&, rank] {
      for (std::size_t leg = 0; leg < legs.size(); ++leg) exchange(legs[leg], there[leg], rank, shape);
      barrier->wait();
      times.dispatch = simgrid::s4u::Engine::get_clock();
      for (std::size_t leg = legs.size(); leg-- > 0;) exchange(legs[leg], back[leg], rank, shape);
    });
  times.combine = machines.run() - times.dispatch;
  return times;
}

}  // namespace limbeck::scale
