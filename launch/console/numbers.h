// Numbers as people read them.
//
//     grouped(48128)           // "48,128"
//     short_count(134515008)   // "134.5M"
#pragma once

#include <cstdint>
#include <string>

namespace limbeck::launch {

/// With a comma at each thousand.
std::string grouped(std::int64_t value);

/// "1,234", "123.5k", "134.5M", "7.25G": three digits or more are always told.
std::string short_count(double value);

}  // namespace limbeck::launch
