#include "launch/run/expert_placement.h"

#include <algorithm>
#include <functional>
#include <map>
#include <numeric>
#include <set>

#include "core/counted.h"
#include "core/error.h"
#include "core/slice.h"

namespace limbeck::launch {
namespace {

using optim::Fragment;

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

ExpertOrder model_order(std::int64_t num_experts) {
  ExpertOrder order(at(num_experts));
  std::iota(order.begin(), order.end(), 0);
  return order;
}

/// Where each expert is in an order.
template <class T>
std::vector<T> places_in(const ExpertOrder& order) {
  std::vector<T> places(order.size());
  for (std::int64_t i = 0; i < std::ssize(order); ++i) places[at(order[at(i)])] = static_cast<T>(i);
  return places;
}

/// Whose each of the places is.
std::vector<std::int64_t> ranks_of_places(std::int64_t num_experts, std::int64_t num_ranks) {
  std::vector<std::int64_t> ranks;
  for (std::int64_t r = 0; r < num_ranks; ++r)
    ranks.insert(ranks.end(), at(core::slice_of(num_experts, r, num_ranks).count), r);
  return ranks;
}

/// Among how many ranks what is kept of experts is dealt.
int sharers_of(const std::vector<Fragment>& fragments) {
  const auto stack = std::ranges::find_if(
      fragments, [](const Fragment& f) { return f.parameter->is_stack && f.sharers.ranks != nullptr; });
  return stack == fragments.end() ? 1 : stack->sharers.ranks->size();
}

/// A layer's experts' tensors.
std::vector<core::Parameter*> stacks_of(const nn::Moe& moe) {
  std::vector<core::Parameter*> stacks{moe.gate, moe.up, moe.down, moe.gate_bias, moe.up_bias, moe.down_bias};
  std::erase(stacks, nullptr);
  return stacks;
}

}  // namespace

double fullest_rank(std::span<const double> load, const ExpertOrder& order, std::int64_t num_ranks) {
  std::vector<double> of_rank(at(num_ranks), 0.0);
  const auto rank_of_place = ranks_of_places(std::ssize(load), num_ranks);
  for (std::int64_t i = 0; i < std::ssize(load); ++i)
    of_rank[at(rank_of_place[at(i)])] += load[at(order.empty() ? i : order[at(i)])];
  return std::ranges::max(of_rank);
}

ExpertOrder dealt_by_load(std::span<const double> load, const ExpertOrder& order, std::int64_t num_ranks) {
  const std::int64_t num_experts = std::ssize(load);
  const ExpertOrder before = order.empty() ? model_order(num_experts) : order;
  const auto place = places_in<std::int64_t>(before);
  const auto rank_of_place = ranks_of_places(num_experts, num_ranks);
  const auto own_rank = [&](std::int64_t e) { return rank_of_place[at(place[at(e)])]; };
  ExpertOrder longest_first = model_order(num_experts);
  std::ranges::stable_sort(longest_first, std::greater(), [&](std::int64_t e) { return load[at(e)]; });
  std::vector<double> of_rank(at(num_ranks), 0.0);
  std::vector<std::int64_t> room(at(num_ranks), 0), rank_of(at(num_experts));
  for (const std::int64_t r : rank_of_place) ++room[at(r)];
  for (const std::int64_t e : longest_first) {
    std::int64_t best = -1;
    const auto is_better = [&](std::int64_t r) {
      if (room[at(r)] == 0) return false;
      if (best < 0 || of_rank[at(r)] < of_rank[at(best)]) return true;
      return of_rank[at(r)] == of_rank[at(best)] && r == own_rank(e);
    };
    for (std::int64_t r = 0; r < num_ranks; ++r)
      if (is_better(r)) best = r;
    rank_of[at(e)] = best;
    of_rank[at(best)] += load[at(e)];
    --room[at(best)];
  }
  ExpertOrder dealt(at(num_experts), -1);
  std::vector<std::int64_t> others;
  for (std::int64_t e = 0; e < num_experts; ++e) {
    if (rank_of[at(e)] == own_rank(e))
      dealt[at(place[at(e)])] = e;
    else
      others.push_back(e);
  }
  for (const std::int64_t e : others)
    *std::find(dealt.begin() + core::slice_of(num_experts, rank_of[at(e)], num_ranks).first, dealt.end(), -1) = e;
  return dealt;
}

bool deals_experts(const ParallelConfig& config, const nn::ModelConfig& student, const parallel::Mesh& mesh) {
  return config.deal_experts_every_steps > 0 && student.moe.num_experts > 0 && mesh.ep().size > 1;
}

void check_experts_may_move(const nn::ModelConfig& student, const parallel::Mesh& mesh,
                            const optim::Optimizer& optimizer) {
  // Of ranks that have any; the same on all, for all have to refuse it.
  const std::int64_t fewest = std::max<std::int64_t>(student.moe.num_experts / mesh.ep().size, 1);
  optimizer.for_each_kept([fewest](const Fragment& f, const core::Tensor& kept, const core::Shape&) {
    if (f.parameter->is_stack && kept.dtype() == core::DType::U8 && f.sharers.ranks != nullptr &&
        f.sharers.ranks->size() > fewest)
      core::fail_usage(
          "parallel.deal_experts_every_steps is given with optimizer.eight_bit_state, which {} ranks share (edp) of as "
          "few as {}, expected no more ranks than experts",
          f.sharers.ranks->size(), core::counted(fewest, "expert"));
  });
}

ExpertPlacement::ExpertPlacement(const Rank& rank, nn::Transformer& student, const std::vector<Fragment>& fragments,
                                 const optim::Optimizer& optimizer, parallel::SharedValues& values)
    : student_(student),
      fragments_(fragments),
      optimizer_(optimizer),
      values_(values),
      num_ranks_(rank.mesh().ep().size),
      moves_(rank.mesh(), sharers_of(fragments)) {
  check_experts_may_move(student.config(), rank.mesh(), optimizer);
}

void ExpertPlacement::count(const Counts& load) {
  if (counts_.empty()) counts_.assign(load.size(), std::vector<double>(at(student_.config().moe.num_experts), 0.0));
  core::check(counts_.size() == load.size(), "expert placement: loads of {} layers, expected of {}", load.size(),
              counts_.size());
  for (std::size_t row = 0; row < load.size(); ++row)
    std::ranges::transform(load[row], counts_[row], counts_[row].begin(), std::plus<>());
}

std::vector<double> ExpertPlacement::fullest(const Counts& load) const {
  std::vector<double> shares;
  for (std::size_t row = 0; row < load.size(); ++row) {
    const double total = std::reduce(load[row].begin(), load[row].end());
    shares.push_back(total > 0 ? fullest_rank(load[row], order_of(orders_, row), num_ranks_) / total : 0);
  }
  return shares;
}

std::int64_t ExpertPlacement::deal() {
  Orders next;
  std::int64_t moved = 0;
  for (std::size_t row = 0; row < counts_.size(); ++row) {
    const ExpertOrder now = order_of(orders_, row);
    ExpertOrder dealt = dealt_by_load(counts_[row], now, num_ranks_);
    if (fullest_rank(counts_[row], dealt, num_ranks_) >= (1 - least_gain) * fullest_rank(counts_[row], now, num_ranks_))
      dealt = now;
    for (std::size_t i = 0; i < now.size(); ++i) moved += dealt[i] != now[i] ? 1 : 0;
    next.push_back(std::move(dealt));
  }
  counts_.clear();
  if (moved > 0) move_to(next, Also::Nothing);
  return moved;
}

void ExpertPlacement::go_on_with(const Orders& orders, const Counts& counts, const std::string& where) {
  const std::int64_t num_experts = student_.config().moe.num_experts;
  core::check(orders.size() <= num_rows() && (counts.empty() || counts.size() == num_rows()),
              "{}: its run's state: expert_order of {} layers, expert_counts of {}, expected of the model's {}", where,
              orders.size(), counts.size(), num_rows());
  for (ExpertOrder order : orders) {
    std::ranges::sort(order);
    core::check(order.empty() || order == model_order(num_experts),
                "{}: its run's state: expert_order has {} experts of a layer, expected each of the model's {} once",
                where, order.size(), num_experts);
  }
  for (const std::vector<double>& of_layer : counts)
    core::check(std::ssize(of_layer) == num_experts && std::ranges::all_of(of_layer, [](double n) { return n >= 0; }),
                "{}: its run's state: expert_counts are {} numbers of a layer, expected {}, 0 or more", where,
                of_layer.size(), num_experts);
  counts_ = counts;
  move_to(orders, Also::Nothing);
}

void ExpertPlacement::in_model_order(const std::function<void()>& f, bool gradients_too) {
  const Also also = gradients_too ? Also::Gradients : Also::Nothing;
  const Orders now = orders_;
  move_to({}, also);
  f();
  move_to(now, also);
}

std::size_t ExpertPlacement::num_rows() const {
  const nn::ModelConfig& model = student_.config();
  return at(model.num_moe_layers() + (student_.num_depths() > 0 ? model.num_moe_predict_layers() : 0));
}

ExpertOrder ExpertPlacement::order_of(const Orders& orders, std::size_t row) const {
  return row < orders.size() && !orders[row].empty() ? orders[row] : model_order(student_.config().moe.num_experts);
}

/// Ranks ask each other in one order: that of the fragments, of the layers' tensors that are not trained, and of what
/// the optimizer keeps.
void ExpertPlacement::move_to(const Orders& orders, Also also) {
  bool is_other = false;  // on all ranks alike, whichever layers they have
  for (std::size_t row = 0; row < num_rows(); ++row) is_other |= order_of(orders_, row) != order_of(orders, row);
  if (!is_other) return;
  std::map<const core::Parameter*, std::vector<std::int64_t>> from;  // of what moves: who comes from where
  core::ParameterList stacks;
  for (nn::Moe* moe : student_.mixtures()) {
    const std::size_t row = student_.row_of(*moe);
    const ExpertOrder before = order_of(orders_, row), behind = order_of(orders, row);
    if (before == behind) continue;
    const auto place = places_in<std::int64_t>(before);
    ExpertOrder come_from;
    for (const std::int64_t expert : behind) come_from.push_back(place[at(expert)]);
    for (core::Parameter* p : stacks_of(*moe)) {
      from[p] = come_from;
      stacks.push_back(p);
    }
    moe->places =
        behind == model_order(std::ssize(behind)) ? std::vector<std::int32_t>() : places_in<std::int32_t>(behind);
  }
  const auto move = [&](const Fragment& f, const core::Tensor& kept, const core::Shape& whole) {
    if (const auto found = from.find(f.parameter); found != from.end())
      moves_.move(kept, whole, f.sharers.ranks != nullptr, found->second);
  };
  std::set<const core::Parameter*> trained;
  for (const Fragment& f : fragments_) {
    if (!from.contains(f.parameter)) continue;
    trained.insert(f.parameter);
    move(f, f.value(), f.parameter->value.shape());
    if (also == Also::Gradients) move(f, f.gradient(), f.parameter->value.shape());
  }
  for (core::Parameter* p : stacks)
    if (!trained.contains(p)) move(optim::fragment_of(*p, {}), p->value, p->value.shape());
  optimizer_.for_each_kept(move);
  orders_ = orders;
  values_.gather();
}

}  // namespace limbeck::launch
