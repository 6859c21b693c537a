// What an optimizer steps on: a range of a parameter's local value, flattened. One fragment a parameter is the whole
// of it; where optimizer state is sharded, a rank has the ranges it owns and the optimizers do not know.
//
//     AdamW adamw(whole_fragments(model.trainable()), {});
//     AdamW sharded({{&weight, /*offset=*/4096, /*length=*/4096}}, {});
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "core/parameter.h"

namespace limbeck::optim {

struct Fragment {
  core::Parameter* parameter = nullptr;
  std::int64_t offset = 0;  // elements, in the flattened local value
  std::int64_t length = 0;
  double rate_factor = 1;                   // of a step's learning rate
  std::optional<double> weight_decay = {};  // in place of the optimizer's

  bool is_whole() const { return offset == 0 && length == parameter->value.numel(); }
};

/// One fragment a parameter, in the order of the list.
std::vector<Fragment> whole_fragments(const core::ParameterList& parameters);

/// Throws, naming `who` and the parameter, where a fragment's is not trainable, where it lies outside of it, and where
/// two overlap (a tied parameter that is listed twice would be stepped twice).
void check_fragments(std::string_view who, const std::vector<Fragment>& fragments);

/// Throws, naming `who` and the parameter, if it is frozen, neither float32, float64 nor bfloat16, or has a gradient of
/// another number of elements or dtype than its value (of bfloat16 values: float32).
void check_trainable(std::string_view who, const core::Parameter& parameter);

}  // namespace limbeck::optim
