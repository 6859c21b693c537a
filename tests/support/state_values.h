// What a reader holds, as numbers.
//
//     EXPECT_EQ(state_values<double>(*source.own), state_values<double>(*other.own));
#pragma once

#include <map>
#include <string>
#include <vector>

#include "core/state_dict.h"

namespace limbeck::testing {

/// Every tensor that a reader has, as T (float or double).
template <class T>
std::map<std::string, std::vector<T>> state_values(const core::StateReader& reader) {
  std::map<std::string, std::vector<T>> values;
  for (const auto& [name, info] : reader.tensors()) {
    core::StateEntry entry =
        core::StateEntry::whole(core::Tensor::empty(core::Memory::cpu(1), core::dtype_of<T>(), info.shape));
    reader.read(name, entry);
    values[name] = core::host_values<T>(entry.tensor);
  }
  return values;
}

}  // namespace limbeck::testing
