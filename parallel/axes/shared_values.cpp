#include "parallel/axes/shared_values.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "core/exchanges_of.h"

namespace limbeck::parallel {

using core::Parameter;
using core::Tensor;

SharedValues::SharedValues(const core::ParameterList& parameters, const GradientGroups& groups,
                           std::int64_t bytes_at_once) {
  if (!groups.shares(Sharded::OptimizerState)) return;
  find_writers(parameters, groups);
  core::ParameterList always_whole = parameters;
  if (groups.shares(Sharded::Parameters)) {
    layers_ = std::make_unique<LayerValues>(parameters, groups, "layers.");
    predictors_ = std::make_unique<LayerValues>(parameters, groups, "predict.");
    ends_ = std::make_unique<EndValues>(parameters, groups, bytes_at_once);
    std::erase_if(always_whole, [this](const Parameter* p) { return share(*p).defined(); });
  }
  parts_ = make_value_parts(always_whole, groups, bytes_at_once, ValuePart::Shares::InValues);
}

/// Of all that have a share the neighbours of who writes the whole parameter.
void SharedValues::find_writers(const core::ParameterList& parameters, const GradientGroups& groups) {
  for (std::size_t index = 0; index < GradientGroups::count; ++index) {
    core::ParameterList own;  // the same on all of the group's ranks, which may hold other layers in other groups
    std::ranges::copy_if(parameters, std::back_inserter(own),
                         [&](const Parameter* p) { return groups.index_of(*p) == index; });
    if (own.empty()) continue;
    std::vector<std::int64_t> flags;
    for (const Parameter* p : own) flags.push_back(p->first_replica ? 1 : 0);
    const Tensor any = Tensor::from<std::int64_t>(own.front()->value.memory()->host(), {std::ssize(flags)}, flags);
    const core::ExchangesOf scope("who writes which share");
    groups[index].sharers->all_reduce(any, core::Reduce::Max);
    const auto* found = any.host<std::int64_t>();
    for (const Parameter* p : own) writes_[p] = *found++ != 0;
  }
}

void SharedValues::begin() {
  if (!layers_) return;
  layers_->part_from_values();
  predictors_->part_from_values();
  ends_->part_from_values();
}

void SharedValues::gather() {
  if (layers_) {
    layers_->free_values();
    predictors_->free_values();
  }
  for (std::size_t i = 0; i < parts_.size(); ++i) {  // one travels while the one before is taken over
    parts_[i].start();
    if (i > 0) parts_[i - 1].finish();
  }
  if (!parts_.empty()) parts_.back().finish();
}

Tensor SharedValues::share(const Parameter& parameter) const {
  if (!layers_) return {};
  if (nn::end_of(parameter)) return ends_->share(parameter);
  const Tensor share = layers_->share(parameter);
  return share.defined() ? share : predictors_->share(parameter);
}

}  // namespace limbeck::parallel
