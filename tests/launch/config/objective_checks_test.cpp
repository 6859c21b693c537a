// What the parts of an objective go with.
#include <fmt/format.h>
#include <gmock/gmock.h>

#include <string>
#include <utility>

#include "core/error.h"
#include "launch/config/config.h"

namespace limbeck::launch {
namespace {

using ::testing::HasSubstr;

void refuses(const std::string& text, const std::string& expected) {
  EXPECT_THAT([&] { parse_config(text, "c"); }, ::testing::ThrowsMessage<core::UsageError>(HasSubstr(expected)))
      << text;
}

TEST(ConfigSampledText, IsOfHalfTheStepsWhereNothingElseIsSaid) {
  EXPECT_FALSE(parse_config("objective {}", "c").objective.sampled_text);
  const RunConfig config = parse_config("objective { sampled_text { by: TEACHER } }", "c");
  EXPECT_EQ(config.objective.sampled_text.value().fraction, 0.5);
  EXPECT_EQ(parse_config(to_textproto(config), "c"), config);
  for (const char* fraction : {"0", "-0.1", "1.5"})
    refuses(fmt::format("objective {{\n sampled_text {{ fraction: {} }} }}", fraction),
            fmt::format("c:2:17: objective.sampled_text.fraction is {}, expected above 0 to 1", fraction));
}

TEST(ConfigSampledText, ARecordWithoutAnyIsOfARunThatSampledNothing) {
  const std::string section = "objective { sampled_text { by: STUDENT fraction: 0 prompt_tokens: 64 } } ";
  EXPECT_FALSE(parse_config(section + "output { started_in: '/there' }", "c").objective.sampled_text);
}

}  // namespace
}  // namespace limbeck::launch
