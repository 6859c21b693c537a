#include "launch/config/config_spelling.h"

#include <gtest/gtest.h>

#include "launch/config/config.pb.h"

namespace limbeck::launch {
namespace {

std::string spelt(const std::string& text) { return respelled(text, *config::Config::descriptor()).text; }

TEST(Spelling, WholeNumbersMayHaveAnExponentOrAPoint) {
  for (const auto& [text, digits] :
       std::initializer_list<std::pair<const char*, const char*>>{{"1e3", "1000"},
                                                                  {"1E+3", "1000"},
                                                                  {"1.5e1", "15"},
                                                                  {"2.50e1", "25"},
                                                                  {"12.0", "12"},
                                                                  {"12.", "12"},
                                                                  {"1200e-2", "12"},
                                                                  {"0.0e5", "0"},
                                                                  {"0e-3", "0"},
                                                                  {".5e1", "5"},
                                                                  {"007", "7"},
                                                                  {"18446744073709551615e0", "18446744073709551615"}})
    EXPECT_EQ(whole_number(text), digits) << text;
  for (const char* text : {"1.5e0", "1.5", "1e-1", "10e-2", "1e31", "1e", "e3", ".", "", "-1e3", "1e3f", "0x1e3",
                           "1e3 ", "1e99999999999", "nan", "inf", "1.2.3"})
    EXPECT_EQ(whole_number(text), std::nullopt) << text;
}

TEST(Spelling, OnlyValuesOfTheRightFieldsAreTouched) {
  EXPECT_EQ(spelt("train { steps: 1e3 seed: 2.0 } optimizer { rate: 1e-3 }"),
            "train { steps: 1000 seed: 2 } optimizer { rate: 1e-3 }");
  EXPECT_EQ(spelt("schedule { kind: Cosine decay: one_minus_sqrt }"),
            "schedule { kind: COSINE decay: ONE_MINUS_SQRT }");
  EXPECT_EQ(spelt("generation { prompt: \"cosine 1e3\" } # cosine 1e3\nschedule < kind: linear, >"),
            "generation { prompt: \"cosine 1e3\" } # cosine 1e3\nschedule < kind: LINEAR, >");
  EXPECT_EQ(spelt("student_init { layers: [0, 1e0, 2e1] choice: list }"),
            "student_init { layers: [0, 1, 20] choice: LIST }");
  EXPECT_EQ(spelt("data { sources: [{ text: 'a' format: plain }, { text: 'b' 'c' format: json_lines }] seed: 1e1 }"),
            "data { sources: [{ text: 'a' format: PLAIN }, { text: 'b' 'c' format: JSON_LINES }] seed: 10 }");
  EXPECT_EQ(spelt("\ttrain\t{\tsteps:\t-1e1\t}"), "\ttrain\t{\tsteps:\t-10\t}");
  for (const char* broken : {"", "train { stepz: 1e3 }", "schedule { kind: sine }", "} train { steps: 1e3",
                             "[a.b] { steps: 1e3 }", "train: 1e3", "schedule { kind: { cosine"})
    EXPECT_EQ(spelt(broken), broken);
}

TEST(Spelling, PlacesAreThoseOfTheGivenText) {
  const Respelled r = respelled("train { seed: 1\n steps: 1e6 seed: 2.000 x }", *config::Config::descriptor());
  EXPECT_EQ(r.text, "train { seed: 1\n steps: 1000000 seed: 2 x }");
  EXPECT_EQ(r.column_before(0, 14), 14);
  EXPECT_EQ(r.column_before(1, 8), 8);    // 1e6 itself
  EXPECT_EQ(r.column_before(1, 16), 12);  // seed
  EXPECT_EQ(r.column_before(1, 24), 24);  // x
}

}  // namespace
}  // namespace limbeck::launch
