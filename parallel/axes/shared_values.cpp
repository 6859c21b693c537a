#include "parallel/axes/shared_values.h"

#include <utility>

namespace limbeck::parallel {

using core::Parameter;
using core::Tensor;

SharedValues::SharedValues(const core::ParameterList& parameters, const GradientGroups& groups,
                           std::int64_t bytes_at_once) {
  if (!groups.shares(Sharded::OptimizerState)) return;
  find_writers(parameters, groups);
  core::ParameterList always_whole = parameters;
  if (groups.shares(Sharded::Parameters)) {
    layers_ = std::make_unique<LayerValues>(parameters, groups);
    std::erase_if(always_whole, [](const Parameter* p) { return LayerValues::layer_of(*p).has_value(); });
  }
  parts_ = make_value_parts(always_whole, groups, bytes_at_once, ValuePart::Shares::InValues);
}

/// Of all that have a share the neighbours of who writes the whole parameter.
void SharedValues::find_writers(const core::ParameterList& parameters, const GradientGroups& groups) {
  if (parameters.empty()) return;
  const core::MemoryPtr memory = parameters.front()->value.memory()->host();
  for (std::size_t index = 0; index < GradientGroups::count; ++index) {
    std::vector<std::int64_t> flags;
    for (const Parameter* p : parameters) flags.push_back(p->first_replica ? 1 : 0);
    const Tensor any = Tensor::from<std::int64_t>(memory, {std::ssize(flags)}, flags);
    groups[index].sharers->all_reduce(any, core::Reduce::Max);
    const auto* found = any.host<std::int64_t>();
    for (const Parameter* p : parameters) {
      const bool writes = *found++ != 0;
      if (groups.index_of(*p) == index) writes_[p] = writes;
    }
  }
}

void SharedValues::begin() {
  if (layers_) layers_->part_from_values();
}

void SharedValues::gather() {
  if (layers_) layers_->free_values();
  for (std::size_t i = 0; i < parts_.size(); ++i) {  // one travels while the one before is taken over
    parts_[i].start();
    if (i > 0) parts_[i - 1].finish();
  }
  if (!parts_.empty()) parts_.back().finish();
}

Tensor SharedValues::share(const Parameter& parameter) const { return layers_ ? layers_->share(parameter) : Tensor(); }

}  // namespace limbeck::parallel
