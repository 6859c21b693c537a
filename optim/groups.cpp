#include "optim/groups.h"

#include <algorithm>

namespace limbeck::optim {
namespace {

bool matches(const Group& group, const std::string& name) { return core::is_of_pattern(name, group.pattern); }

/// The first that matches, or the end.
auto group_of(const std::string& name, const std::vector<Group>& groups) {
  return std::ranges::find_if(groups, [&](const Group& g) { return matches(g, name); });
}

}  // namespace

std::vector<GroupCount> count_groups(const core::ParameterList& parameters, const std::vector<Group>& groups) {
  std::vector<GroupCount> counts(groups.size());
  for (const core::Parameter* p : parameters) {
    const auto group = group_of(p->name, groups);
    if (group == groups.end()) continue;
    GroupCount& count = counts[static_cast<std::size_t>(group - groups.begin())];
    ++count.num_tensors;
    count.num_elements += p->global_shape.numel();
  }
  return counts;
}

std::vector<Trained> apply_groups(const core::ParameterList& parameters, const std::vector<Group>& groups,
                                  std::vector<std::string> names) {
  std::vector<Trained> trained;
  if (names.empty())
    for (const core::Parameter* p : parameters) names.push_back(p->name);
  std::vector<bool> is_used(groups.size(), false);
  for (const std::string& name : names)
    if (const auto group = group_of(name, groups); group != groups.end())
      is_used[static_cast<std::size_t>(group - groups.begin())] = true;
  for (core::Parameter* p : parameters) {
    const auto group = group_of(p->name, groups);
    if (group != groups.end() && group->frozen)
      p->slot.reset();
    else if (!p->is_frozen())
      trained.push_back({p, group == groups.end() ? Group{} : *group});
  }
  for (std::size_t i = 0; i < groups.size(); ++i) {
    if (is_used[i]) continue;
    const bool is_shadowed =
        std::ranges::any_of(names, [&](const std::string& name) { return matches(groups[i], name); });
    core::fail_usage("optimizer.groups[{}]: the pattern {} matches no parameter{}, expected a module path such as {}",
                     i, groups[i].pattern, is_shadowed ? " that an earlier group leaves" : "",
                     names.empty() ? "embed.weight" : names.back());
  }
  return trained;
}

void check_some_trained(std::int64_t num_values) {
  if (num_values == 0) core::fail_usage("optimizer.groups: all parameters are frozen, expected some to train");
}

core::ParameterList parameters_of(const std::vector<Trained>& trained) {
  core::ParameterList parameters;
  for (const Trained& t : trained) parameters.push_back(t.parameter);
  return parameters;
}

std::vector<Fragment> fragments_of(const std::vector<Trained>& trained) {
  std::vector<Fragment> fragments;
  for (const Trained& t : trained) {
    Fragment& fragment = fragments.emplace_back(fragment_of(*t.parameter, t.sharers));
    fragment.rate_factor = t.group.rate_factor;
    fragment.weight_decay = t.group.weight_decay;
  }
  return fragments;
}

}  // namespace limbeck::optim
