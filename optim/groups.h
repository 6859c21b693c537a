// Parameter groups: exceptions to the optimizer's settings, by patterns of parameter names.
//
//     const std::vector<Group> groups{{.pattern = "embed.weight", .frozen = true},
//                                     {.pattern = "layers.*.moe.router.weight", .rate_factor = 0.1}};
//     std::vector<Trained> trained = apply_groups(model.parameters(), groups);   // before gradients are given places
//     AdamW adamw(fragments_of(trained), {});
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "optim/fragment.h"

namespace limbeck::optim {

struct Group {
  std::string pattern;                      // of whole names (core::is_of_pattern); empty matches nothing
  double rate_factor = 1;                   // of the step's learning rate
  std::optional<double> weight_decay = {};  // in place of the optimizer's, on parameters that decay
  bool frozen = false;
  bool adamw = false;  // stepped by AdamW even if it is a matrix of Muon's
};

/// A parameter that is trained, and its group: the defaults where no pattern matches.
struct Trained {
  core::Parameter* parameter;
  Group group;
  Sharers sharers = {};
};

/// Every parameter belongs to the first group that matches its name. Those of frozen groups give up their slots, so
/// that no gradient flows into them; the others come back in the order of the list. Throws a UsageError, naming the
/// pattern, for one that matches no name or none that an earlier group left.
/// `names`: all that patterns may be of, where other ranks hold other parameters; empty: those of the list.
std::vector<Trained> apply_groups(const core::ParameterList& parameters, const std::vector<Group>& groups,
                                  std::vector<std::string> names = {});

/// Throws a UsageError where groups have left no value to train, of so many on all ranks.
void check_some_trained(std::int64_t num_values);

/// What belongs to a group.
struct GroupCount {
  std::int64_t num_tensors = 0;
  std::int64_t num_elements = 0;  // of the whole tensors, whatever part of them this rank has
};
/// Of each group, by the rule of apply_groups.
std::vector<GroupCount> count_groups(const core::ParameterList& parameters, const std::vector<Group>& groups);

core::ParameterList parameters_of(const std::vector<Trained>& trained);
/// One fragment a parameter, this rank's share where it has sharers, with the rate and decay of its group.
std::vector<Fragment> fragments_of(const std::vector<Trained>& trained);

}  // namespace limbeck::optim
