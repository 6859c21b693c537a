// What a config has to be beyond the range of each field: fields that go with others.
//
//     check_whole(config, parsed);
#pragma once

#include "launch/config/config.h"
#include "launch/config/config_text.h"

namespace limbeck::launch {

/// Throws a UsageError with the place of a field, as `parsed` has it, that does not go with the others. An architecture
/// gets what follows from its other fields.
void check_whole(RunConfig& config, const ParsedConfig& parsed);

}  // namespace limbeck::launch
