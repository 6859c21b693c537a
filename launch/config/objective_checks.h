// What the parts of an objective go with: text, teacher, and each other.
//
//     check_parts_of_objective(config, parsed);
#pragma once

#include "core/error.h"
#include "launch/config/config.h"
#include "launch/config/config_text.h"

namespace limbeck::launch {

/// Of fields that are given where another one, `beside`, is.
struct RefusalBeside {
  const ParsedConfig& parsed;
  const char* beside;
  void operator()(bool is_given, const char* field, const char* expected) const {
    if (is_given)
      core::fail_usage("{}: {} is given with {}, expected {}", parsed.place_of(field), field, beside, expected);
  }
};

/// Throws as check_whole. Of a run of before, whose record has the section of sampled text always, a fraction of 0
/// takes it away.
void check_parts_of_objective(RunConfig& config, const ParsedConfig& parsed);

}  // namespace limbeck::launch
