// What is wrong with a config.
//
//     EXPECT_THAT(error_of("optimizer { rate: nan }"), HasSubstr("run.textproto:1:13: optimizer.rate is nan"));
#pragma once

#include <gmock/gmock.h>

#include <string>
#include <vector>

#include "core/error.h"
#include "launch/config/config.h"

namespace limbeck::launch {

/// The message of the UsageError that the config gives; one line, and empty where there is none.
inline std::string error_of(const std::string& text, const std::vector<std::string>& sets = {}) {
  try {
    parse_config(text, "run.textproto", sets);
  } catch (const core::UsageError& error) {
    EXPECT_THAT(error.what(), ::testing::Not(::testing::HasSubstr("\n")));
    return error.what();
  }
  return "";
}

}  // namespace limbeck::launch
