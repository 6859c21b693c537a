#include "parallel/axes/expert_comm.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "core/slice.h"
#include "parallel/axes/expert_steps.h"

namespace limbeck::parallel {
namespace {

using core::check;
using core::DType;
using core::Tensor;
using nn::Exchange;
using nn::ExchangePtr;

/// The steps of a token's way: one, or one to its node and one inside it.
class StepsExchange final : public Exchange {
 public:
  std::vector<ExpertStep> steps;
};

const std::vector<ExpertStep>& steps_of(const ExchangePtr& exchange) {
  return dynamic_cast<const StepsExchange&>(*exchange).steps;
}

/// For each rank of a group, where on a step a token goes to that is for it.
using Via = std::vector<int>;
constexpr int nowhere = -1;

class GroupExpertComm final : public nn::ExpertComm {
 public:
  GroupExpertComm(std::shared_ptr<core::Comm> group, int ranks_an_expert, const ExpertNodes& nodes, ChoicesKnown known)
      : group_(std::move(group)), sharers_(ranks_an_expert), nodes_(nodes), known_(std::move(known)) {
    check(sharers_ > 0 && group_->size() % sharers_ == 0, "expert exchange: {} ranks, expected a multiple of {}",
          group_->size(), sharers_);
    check(nodes_.of.empty() || std::ssize(nodes_.of) == group_->size(),
          "expert exchange: nodes of {} ranks, expected of {}", nodes_.of.size(), group_->size());
    for (int r = 0; r < static_cast<int>(nodes_.of.size()); ++r) {
      std::vector<int>& there = ranks_of_node_[node_of(r)];
      places_.push_back(static_cast<int>(there.size()));
      there.push_back(r);
    }
  }

  std::int64_t size() const override { return group_->size() / sharers_; }
  std::int64_t rank() const override { return group_->rank() / sharers_; }

  ExchangePtr prepare(const Tensor& selection, std::int64_t num_experts) override {
    check(selection.shape().rank() == 2, "expert exchange: the selection is {}, expected [T,K]", selection.shape());
    auto exchange = std::make_shared<StepsExchange>();
    if (known_)
      expect(selection, num_experts, *exchange);
    else
      agree(selection, num_experts, *exchange);
    return exchange;
  }

  nn::RowsUnderWay start_dispatch(const ExchangePtr& exchange, const Tensor& x) override {
    const auto& steps = steps_of(exchange);
    nn::RowsUnderWay first = steps.front().start(x);
    if (steps.size() == 1) return first;
    return [first = std::move(first), exchange] { return steps_of(exchange).back().start(first())(); };
  }

  /// What is inside a node goes first, so that what is slow runs beside other work.
  nn::RowsUnderWay start_combine(const ExchangePtr& exchange, const Tensor& y) override {
    const auto& steps = steps_of(exchange);
    return steps.front().start_back(steps.size() == 1 ? y : steps.back().start_back(y)());
  }

 private:
  int num_ranks() const { return group_->size(); }
  core::Slice experts_of(int rank, std::int64_t num_experts) const {
    return core::slice_of(num_experts, rank / sharers_, size());
  }
  int node_of(int rank) const { return nodes_.of[static_cast<std::size_t>(rank)]; }
  bool is_flat() const { return nodes_.of.empty(); }
  int place_on_node(int rank) const { return places_[static_cast<std::size_t>(rank)]; }

  /// By group_, for a token of `source`: to each rank, or to the one on its node that has the source's place.
  Via first_step_of(int source) const {
    Via via;
    const std::size_t place = is_flat() ? 0 : static_cast<std::size_t>(place_on_node(source));
    for (int r = 0; r < num_ranks(); ++r) {
      if (is_flat()) {
        via.push_back(r);
        continue;
      }
      const std::vector<int>& there = ranks_of_node_.at(node_of(r));
      via.push_back(there[place % there.size()]);
    }
    return via;
  }
  /// By the ranks of this node.
  Via last_step() const {
    Via via;
    for (int r = 0; r < num_ranks(); ++r)
      via.push_back(node_of(r) == node_of(group_->rank()) ? place_on_node(r) : nowhere);
    return via;
  }

  /// For each expert the ranks to which its tokens go.
  std::vector<std::vector<int>> ranks_of_expert(const Via& via, std::int64_t num_experts) const {
    std::vector<std::vector<int>> ranks(static_cast<std::size_t>(num_experts));
    for (int r = 0; r < num_ranks(); ++r) {
      const int to = via[static_cast<std::size_t>(r)];
      if (to == nowhere) continue;
      const auto [first, local] = experts_of(r, num_experts);
      for (std::int64_t e = first; e < first + local; ++e) ranks[static_cast<std::size_t>(e)].push_back(to);
    }
    return ranks;
  }

  void agree(const Tensor& selection, std::int64_t num_experts, StepsExchange& exchange) const {
    const core::MemoryPtr& memory = selection.memory();
    const ExpertChoices choices{selection.shape()[0], selection.shape()[1], core::host_values<std::int32_t>(selection)};
    auto& steps = exchange.steps;
    steps.reserve(2);
    steps.emplace_back(group_, choices, ranks_of_expert(first_step_of(group_->rank()), num_experts), memory);
    if (!is_flat())
      steps.emplace_back(nodes_.here, steps.front().take_choices_here(), ranks_of_expert(last_step(), num_experts),
                         memory);
    const ExpertChoices here = steps.back().take_choices_here();
    const auto [first, local] = experts_of(group_->rank(), num_experts);
    std::vector<std::int32_t> chosen = here.experts;
    for (std::int32_t& e : chosen) {
      const bool is_here = e >= first && e < first + local;
      e = is_here ? static_cast<std::int32_t>(e - first) : -1;
      exchange.num_rows += is_here ? 1 : 0;
    }
    exchange.selection = Tensor::from<std::int32_t>(memory, {here.num_tokens, here.a_token}, chosen);
  }

  // What is expected, where all ranks have as many tokens and all choose alike.

  /// The part of the tokens that go to ranks of which `is_meant(rank)`.
  template <class F>
  double part_for(std::int64_t num_experts, std::int64_t choices, const F& is_meant) const {
    std::vector<bool> experts(static_cast<std::size_t>(num_experts), false);
    for (int r = 0; r < num_ranks(); ++r) {
      if (!is_meant(r)) continue;
      const auto [first, local] = experts_of(r, num_experts);
      std::fill_n(experts.begin() + first, local, true);
    }
    return known_(experts, choices);
  }

  void expect(const Tensor& selection, std::int64_t num_experts, StepsExchange& exchange) const {
    const core::MemoryPtr& memory = selection.memory();
    const std::int64_t tokens = selection.shape()[0], choices = selection.shape()[1];
    const int me = group_->rank();
    /// Of a source's tokens those that come to `to` on their first step.
    const auto first_rows = [&](int source, int to) {
      const Via via = first_step_of(source);
      return static_cast<double>(tokens) *
             part_for(num_experts, choices, [&](int r) { return via[static_cast<std::size_t>(r)] == to; });
    };
    std::vector<std::int64_t> sent, received;
    for (int r = 0; r < num_ranks(); ++r) {
      sent.push_back(std::llround(first_rows(me, r)));
      received.push_back(std::llround(first_rows(r, me)));
    }
    auto& steps = exchange.steps;
    steps.emplace_back(group_, tokens, sent, received, choices, memory);
    if (!is_flat()) {
      /// Of the tokens of all sources that come to this node by `by`, those for the experts of `to`.
      const auto last_rows = [&](int by, int to) {
        int sources = 0;
        for (int r = 0; r < num_ranks(); ++r) sources += first_step_of(r)[static_cast<std::size_t>(to)] == by ? 1 : 0;
        return static_cast<double>(sources * tokens) * part_for(num_experts, choices, [&](int r) { return r == to; });
      };
      sent.clear(), received.clear();
      for (const int r : ranks_of_node_.at(node_of(me))) {
        sent.push_back(std::llround(last_rows(me, r)));
        received.push_back(std::llround(last_rows(r, me)));
      }
      steps.emplace_back(nodes_.here, steps.back().num_received(), sent, received, choices, memory);
    }
    const std::int64_t come = steps.back().num_received();
    exchange.selection = Tensor::empty(memory, DType::I32, {come, choices});
    double chosen = 0;  // of the experts here, by a token
    const auto [first, local] = experts_of(me, num_experts);
    for (std::int64_t e = first; e < first + local; ++e) {
      std::vector<bool> alone(static_cast<std::size_t>(num_experts), false);
      alone[static_cast<std::size_t>(e)] = true;
      chosen += known_(alone, choices);
    }
    const std::int64_t rows = std::llround(static_cast<double>(tokens * num_ranks()) * chosen);
    exchange.num_rows = std::min(rows, come * choices);
  }

  std::shared_ptr<core::Comm> group_;
  int sharers_;  // ranks that hold a part of the same experts
  ExpertNodes nodes_;
  std::map<int, std::vector<int>> ranks_of_node_;
  std::vector<int> places_;  // of each rank, among those of its node
  ChoicesKnown known_;
};

}  // namespace

std::shared_ptr<nn::ExpertComm> make_expert_comm(std::shared_ptr<core::Comm> group, int ranks_an_expert,
                                                 const ExpertNodes& nodes, ChoicesKnown known) {
  return std::make_shared<GroupExpertComm>(std::move(group), ranks_an_expert, nodes, std::move(known));
}

}  // namespace limbeck::parallel
