// What an optimizer steps on: a range of a parameter's local value, flattened. One fragment a parameter is the whole
// of it; where optimizer state is sharded, a rank has the ranges it owns and the optimizers do not know.
//
//     AdamW adamw(whole_fragments(model.trainable()), {});
//     AdamW sharded({{&weight, /*offset=*/4096, /*length=*/4096}}, {});
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "core/parameter.h"

namespace limbeck::optim {

struct Fragment {
  core::Parameter* parameter = nullptr;
  std::int64_t offset = 0;  // elements, in the flattened local value
  std::int64_t length = 0;

  bool is_whole() const { return offset == 0 && length == parameter->value.numel(); }
};

/// One fragment a parameter, in the order of the list.
std::vector<Fragment> whole_fragments(const core::ParameterList& parameters);

/// Throws, naming `who` and the parameter, if it is frozen, neither float32 nor float64, or has a gradient of another
/// dtype or number of elements than its value.
void check_trainable(std::string_view who, const core::Parameter& parameter);

}  // namespace limbeck::optim
