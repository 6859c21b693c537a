// Which model it is, whatever file it lies in.
//
//     state.teacher = model_fingerprint(*teacher.reader);      // "00f3..", 16 hexadecimal digits
#pragma once

#include <string>

#include "core/state_dict.h"

namespace limbeck::launch {

/// Of the names and shapes of all weights, and of the values of three rows of each (the first, the middle, the last),
/// as float32: training changes all of them. Optimizer state does not count.
std::string model_fingerprint(const core::StateReader& reader);

}  // namespace limbeck::launch
