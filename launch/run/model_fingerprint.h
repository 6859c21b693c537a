// Which model it is, whatever file it lies in.
//
//     state.teacher = model_fingerprint(*teacher.reader, teacher.config);      // "00f3..", 16 hexadecimal digits
#pragma once

#include <string>

#include "core/nn/model_config.h"
#include "core/state_dict.h"

namespace limbeck::launch {

/// Of the architecture, of the names and shapes of all weights, and of their values as float32: all of a tensor of up
/// to 4 million, as many in evenly spaced rows of a greater one. Optimizer state does not count.
std::string model_fingerprint(const core::StateReader& reader, const nn::ModelConfig& config);

}  // namespace limbeck::launch
