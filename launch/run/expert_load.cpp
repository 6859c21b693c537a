#include "launch/run/expert_load.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

#include "core/exchanges_of.h"
#include "kernels/sums.h"

namespace limbeck::launch {

ExpertLoad expert_load(std::span<const double> assignments, double chosen) {
  const double total = std::accumulate(assignments.begin(), assignments.end(), 0.0);
  if (total <= 0) return {.drops = chosen};
  double entropy = 0;
  for (const double n : assignments)
    if (n > 0) entropy -= n / total * std::log(n / total);
  const auto [least, most] = std::minmax_element(assignments.begin(), assignments.end());
  const double even = std::log(static_cast<double>(assignments.size()));
  return {*least / total, *most / total, chosen - total, even > 0 ? entropy / even : 1};
}

std::vector<std::int64_t> most_loaded(std::span<const double> assignments, std::int64_t most) {
  std::vector<std::int64_t> experts(assignments.size());
  std::iota(experts.begin(), experts.end(), 0);
  const auto load = [&](std::int64_t expert) { return assignments[static_cast<std::size_t>(expert)]; };
  std::ranges::stable_sort(experts, std::greater(), load);
  const double mean =
      std::accumulate(assignments.begin(), assignments.end(), 0.0) / static_cast<double>(experts.size());
  const auto end = std::ranges::find_if(experts, [&](std::int64_t expert) { return load(expert) <= mean; });
  experts.resize(static_cast<std::size_t>(std::min(most, end - experts.begin())));
  std::ranges::sort(experts);
  return experts;
}

LoadCounter::LoadCounter(const nn::ModelConfig& model, bool predicts) : num_experts_(model.moe.num_experts) {
  const std::int64_t end = model.num_layers + (predicts ? model.num_predict_layers : 0);
  for (std::int64_t layer = 0; layer < end; ++layer)
    row_of_layer_.push_back(model.is_moe_layer(layer) ? num_rows_++ : -1);
}

Tensor& LoadCounter::counts_in(const core::MemoryPtr& memory) {
  if (!counts_.defined()) counts_ = Tensor::zeros(memory, core::DType::F64, {num_rows_ * row()});
  return counts_;
}

void LoadCounter::watch(nn::Pass& pass) {
  pass.load = [this](std::int64_t layer, const Tensor& counts, const Tensor& untaken) {
    const std::int64_t first = row_of_layer_[static_cast<std::size_t>(layer)] * row();
    const auto add = [&](const Tensor& of, std::int64_t at) {
      Tensor to = counts_in(counts.memory()).rows(first + at, of.numel());
      core::on_device(of, [&](const auto& device) {
        kernels::add_counts(device, of.data<std::int64_t>(), to.mutable_data<double>(), of.numel());
      });
    };
    add(counts, 0);
    if (untaken.defined()) add(untaken, num_experts_);
  };
}

LoadCounter::Sums LoadCounter::start_sum_over(Rank& rank) {
  Sums sums;
  if (num_rows_ == 0) return sums;
  sums.sums_ = counts_in(rank.memory()).clone();
  const core::ExchangesOf scope("tokens of each expert");
  rank.world().all_reduce(sums.sums_, core::Reduce::Sum);  // a tensor group divides its tokens among its ranks
  sums.row_ = row();
  return sums;
}

void LoadCounter::Sums::start_reading() {
  if (sums_.defined()) copy_.emplace(sums_);
}

LoadCounter::Counts LoadCounter::Sums::read() {
  Counts counts;
  if (!copy_) start_reading();
  if (!copy_) return counts;
  const std::span<const double> sums = copy_->get<double>();
  for (auto at = sums.begin(); at != sums.end(); at += row_) {
    counts.assignments.emplace_back(at, at + row_ - 1);
    counts.untaken.push_back(at[row_ - 1]);
  }
  return counts;
}

LoadCounter::Counts LoadCounter::sum_over(Rank& rank) { return start_sum_over(rank).read(); }

std::optional<ModelLoad> model_load(const nn::ModelConfig& model, const std::vector<std::vector<double>>& assignments) {
  if (assignments.empty()) return std::nullopt;
  ModelLoad result;
  result.worst_entropy = 2;  // above any
  auto experts = assignments.begin();
  for (std::int64_t layer = 0; layer < model.num_layers; ++layer) {
    if (!model.is_moe_layer(layer)) continue;
    const double total = std::accumulate(experts->begin(), experts->end(), 0.0);
    const double entropy = expert_load(*experts, total).entropy;
    result.even_share = total / static_cast<double>(experts->size());
    const auto starved = std::count_if(experts->begin(), experts->end(),
                                       [&](double n) { return n < starved_below * result.even_share; });
    result.mean_entropy += entropy / static_cast<double>(assignments.size());
    if (entropy < result.worst_entropy) {
      result.worst_entropy = entropy;
      result.worst_layer = layer;
    }
    result.num_experts += static_cast<std::int64_t>(experts->size());
    result.num_starved += starved;
    if (starved > 0) result.starved_layers.push_back(layer);
    ++experts;
  }
  return result;
}

std::optional<std::string> starved_warning(const std::optional<ModelLoad>& load, bool experts_choose) {
  constexpr double least_share = 20;  // an expert of so many is without any once in e^20 samples
  if (!load || load->num_starved == 0 || load->even_share < least_share) return std::nullopt;
  return fmt::format(
      "{} of {} experts starve, in layer{} {}: each takes less than {:.0f} % of an even share of the held-out tokens. "
      "Slower routers stay even: a smaller rate_factor in optimizer.groups {{ pattern: \"*.router.weight\" "
      "rate_factor: 0.1 }}; {}",
      load->num_starved, load->num_experts, load->starved_layers.size() == 1 ? "" : "s",
      fmt::join(load->starved_layers, ", "), 100 * starved_below,
      experts_choose ? "so do last steps in which tokens choose: --resume --set routing.expert_choice=false --set "
                       "moe_loss.balance_weight=0.01"
                     : "a greater moe_loss.balance_weight helps at a cost");
}

}  // namespace limbeck::launch
