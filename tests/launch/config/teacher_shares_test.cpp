#include "launch/config/teacher_shares.h"

#include <gmock/gmock.h>

#include <string>
#include <vector>

#include "core/error.h"

namespace limbeck::launch {
namespace {

using ::testing::HasSubstr;

TEST(ConfigTeachers, AreOfTheSourcesThatTheyName) {
  const std::string data = "data { sources { text: 'a' name: 'web' } sources { text: 'b' } tokenizer: 'bytes' } ";
  const std::string first =
      "teacher { source: 'A' teaches: ['web', '1'] others { source: 'B' teaches: '1' weight: 3 } ";
  const RunConfig config = parse_config(data + first + "}", "c");
  EXPECT_EQ(teacher_shares(config), (std::vector<std::vector<double>>{{1, 0}, {0.25, 0.75}}));
  EXPECT_EQ(teacher_shares(parse_config("teacher { source: 'A' others { source: 'B' } } data { text: 'a' }", "c")),
            (std::vector<std::vector<double>>{{0.5, 0.5}}));
  EXPECT_EQ(parse_config(to_textproto(config), "c"), config);
  const auto refuses = [&](const std::string& text, const std::string& expected) {
    EXPECT_THAT([&] { parse_config(data + text, "c"); },
                ::testing::ThrowsMessage<core::UsageError>(HasSubstr(expected)))
        << text;
  };
  refuses("teacher { source: 'A' teaches: 'code' }", "teacher.teaches has \"code\", expected names of data.sources");
  refuses("teacher { source: 'A' others { source: 'B' teaches: '0' } }",
          "teacher.others[0].teaches has \"0\", expected names of data.sources");
  refuses("teacher { source: 'A' teaches: '1' others { source: 'B' teaches: '1' } }",
          "teacher.teaches leaves out the source web, which no other teacher teaches");
  refuses("teacher { source: 'A' others { source: 'B' weight: 0 } }",
          "teacher.others[0].weight is 0, expected above 0");
  refuses("teacher { source: 'A' others { } }", "teacher.others[0].source is not given, expected a model");
  refuses(first + "cache: 'kept' }", "teacher.cache is given with teacher.others, expected none");
  refuses(first + "} objective { control: SHUFFLED_POSITIONS }", "objective.control is given with teacher.others");
  refuses(first + "} train { cuda_graph: true }", "train.cuda_graph is given with teacher.others");
  refuses(first + "} student_init { vocabulary_count: 1 }",
          "student_init.vocabulary_count is given with teacher.others");
}

}  // namespace
}  // namespace limbeck::launch
