// What --set lays over a config: values, lists, entries of lists, sections.
#include <fmt/format.h>
#include <gmock/gmock.h>

#include <string>
#include <vector>

#include "launch/config/config.h"
#include "tests/launch/config/config_error.h"

namespace limbeck::launch {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(ConfigSets, OverrideTheFile) {
  const RunConfig c = parse_config("train { steps: 3 } data { text: \"/old\" }", "x",
                                   {"train.steps=5", "train.steps=7", "data.tokenizer=bytes", "generation.prompt=a = b",
                                    "student_init.choice=EVENLY_SPACED", "train.recompute=true", "optimizer.rate=1e-2",
                                    "data.text=/new", "data.text=/more", "student_init.upcycle.slices=2"});
  EXPECT_EQ(c.train.steps, 7);
  EXPECT_EQ(c.data.tokenizer, "bytes");
  EXPECT_EQ(c.generation.prompt, "a = b");
  EXPECT_EQ(c.student_init->choice, LayerChoice::EvenlySpaced);
  EXPECT_TRUE(c.train.recompute);
  EXPECT_EQ(c.optimizer.rate, 1e-2);
  EXPECT_EQ(c.data.text, (std::vector<std::string>{"/new", "/more"}));
  EXPECT_EQ(c.student_init->upcycle->slices, 2);
}

TEST(ConfigSets, TakeListsAndQuotes) {
  const RunConfig c = parse_config("", "x",
                                   {"data.text=[/a, \"/b\",/c]", "student_init.layers=[0,2]",
                                    "student_init.choice=LIST", "generation.prompt=\"tab\\there\""});
  EXPECT_EQ(c.data.text, (std::vector<std::string>{"/a", "/b", "/c"}));
  EXPECT_EQ(c.student_init->layers, (std::vector<std::int64_t>{0, 2}));
  EXPECT_EQ(c.generation.prompt, "tab\there");
  EXPECT_TRUE(parse_config("data { text: \"/a\" }", "x", {"data.text=[]"}).data.text.empty());
  EXPECT_TRUE(parse_config("data { text: \"/a\" }", "x", {"data.text="}).data.text.empty());
  EXPECT_TRUE(parse_config("student_init { choice: EVENLY_SPACED layers: 1 }", "x", {"student_init.layers="})
                  .student_init->layers.empty());
  EXPECT_EQ(parse_config("data { text: \"/a\" }", "x", {"data.text=", "data.tokens=t"}).data.tokens, "t");
}

TEST(ConfigSets, TakeWholeGroups) {
  const std::string file = "optimizer { groups { pattern: 'old' rate_factor: 2 } }";
  const RunConfig c = parse_config(file, "x",
                                   {"optimizer.groups={ pattern: \"embed.*\" frozen: true }",
                                    "optimizer.groups={ pattern: 'head.weight' weight_decay: 0.5 }"});
  ASSERT_EQ(c.optimizer.groups.size(), 2U);
  EXPECT_TRUE(c.optimizer.groups[0].frozen);
  EXPECT_FALSE(c.optimizer.groups[0].weight_decay.has_value());
  EXPECT_EQ(c.optimizer.groups[1].pattern, "head.weight");
  EXPECT_EQ(c.optimizer.groups[1].weight_decay, 0.5);
  EXPECT_TRUE(parse_config(file, "x", {"optimizer.groups=[]"}).optimizer.groups.empty());
  EXPECT_TRUE(parse_config(file, "x", {"optimizer.groups="}).optimizer.groups.empty());
  EXPECT_THAT(error_of(file, {"optimizer.groups={ pattern: 'a' rate_factor: -1 }"}),
              AllOf(HasSubstr("--set optimizer.groups="), HasSubstr("optimizer.groups[0].rate_factor is -1")));
  EXPECT_THAT(error_of(file, {"optimizer.groups=embed.*"}), HasSubstr("expected { field: value ... }"));
  EXPECT_THAT(error_of(file, {"optimizer.groups.pattern=a"}),
              HasSubstr("optimizer.groups is a list of sections, expected "
                        "--set 'optimizer.groups={ field: value ... }'"));
}

TEST(ConfigSets, ListsAreSetAppendedToAndCleared) {
  const std::string file = "data { text: 'a' text: 'b' } student_init { choice: LIST layers: [0, 2] }";
  const auto text = [&](const std::vector<std::string>& sets) { return parse_config(file, "x", sets).data.text; };
  using Strings = std::vector<std::string>;
  EXPECT_EQ(text({"data.text+=c"}), (Strings{"a", "b", "c"}));
  EXPECT_EQ(text({"data.text+=[c, \"d, e\"]", "data.text+=f"}), (Strings{"a", "b", "c", "d, e", "f"}));
  EXPECT_EQ(text({"data.text+=c", "data.text=d"}), (Strings{"d"}));
  EXPECT_EQ(text({"data.text=c", "data.text+=d", "data.text=e"}), (Strings{"c", "d", "e"}));
  EXPECT_EQ(text({"data.text[1]=c"}), (Strings{"a", "c"}));
  EXPECT_EQ(text({"data.text=[x, y, z]", "data.text[0]=c", "data.text[2]=\"d\""}), (Strings{"c", "y", "d"}));
  EXPECT_EQ(text({"data.text=c", "data.text="}), Strings{});
  EXPECT_EQ(text({"data.text=", "data.text+=c"}), Strings{"c"});
  EXPECT_EQ(parse_config(file, "x", {"student_init.layers[0]=1e0", "student_init.layers+=5"}).student_init->layers,
            (std::vector<std::int64_t>{1, 2, 5}));
  EXPECT_THAT(error_of(file, {"data.text[2]=c"}), HasSubstr("data.text has 2 entries, expected one of 0 to 1"));
  EXPECT_THAT(error_of(file, {"data.text[-1]=c"}), HasSubstr("expected one of 0 to 1"));
  EXPECT_THAT(error_of("", {"data.text[0]=c"}), HasSubstr("data.text has 0 entries, expected data.text+=value"));
  EXPECT_THAT(error_of(file, {"data.text=[a, b"}), HasSubstr("--set data.text=[a, b: the list ends without ]"));
  EXPECT_THAT(error_of(file, {"model.moe.num_experts=2", "model.moe.dense_layers=[1, 0]"}),
              HasSubstr("--set model.moe.dense_layers=[1, 0]: model.moe.dense_layers has 0 after 1"));
  EXPECT_THAT(error_of(file, {"train.steps[0]=3"}), HasSubstr("train.steps is no list, expected train.steps=value"));
  EXPECT_THAT(error_of(file, {"train.steps+=3"}), HasSubstr("train.steps is no list, expected train.steps=value"));
}

TEST(ConfigSets, FieldsOfOneEntryOfAListAreSet) {
  const std::string file = "optimizer { groups { pattern: 'a' rate_factor: 2 } groups { pattern: 'b' frozen: true } }";
  const RunConfig c = parse_config(file, "x",
                                   {"optimizer.groups[1].frozen=false", "optimizer.groups[1].weight_decay=0",
                                    "optimizer.groups[0]={ pattern: 'c' }", "optimizer.groups+={ pattern: 'd' }"});
  ASSERT_EQ(c.optimizer.groups.size(), 3U);
  EXPECT_EQ(c.optimizer.groups[0].pattern, "c");
  EXPECT_EQ(c.optimizer.groups[0].rate_factor, 1);  // the whole entry is another
  EXPECT_EQ(c.optimizer.groups[1].pattern, "b");
  EXPECT_FALSE(c.optimizer.groups[1].frozen);
  EXPECT_EQ(c.optimizer.groups[1].weight_decay, 0.0);
  EXPECT_EQ(c.optimizer.groups[2].pattern, "d");
  EXPECT_THAT(error_of(file, {"optimizer.groups[1].rate_factor=-1"}),
              HasSubstr("--set optimizer.groups[1].rate_factor=-1: optimizer.groups[1].rate_factor is -1"));
  EXPECT_THAT(error_of(file, {"optimizer.groups[7].frozen=true"}), HasSubstr("has 2 entries, expected one of 0 to 1"));
}

TEST(ConfigSets, AnEmptyValueTakesASectionAway) {
  EXPECT_FALSE(parse_config("model { width: 64 }", "x", {"model="}).model.has_value());
  EXPECT_EQ(parse_config("train { seed: 9 }", "x", {"train="}).train, TrainConfig{});
  EXPECT_FALSE(
      parse_config("student_init { upcycle { slices: 2 } }", "x", {"student_init.upcycle="}).student_init->upcycle);
}

TEST(ConfigSets, ChoicesStandInAnyCaseAndWholeNumbersMayHaveAnExponent) {
  const RunConfig c = parse_config("", "x",
                                   {"schedule.kind=linear", "schedule.decay=Cosine_Decay", "train.steps=2e3",
                                    "train.seed=1.0", "optimizer.groups={ pattern: 'a' rate_factor: 1e3 }"});
  EXPECT_EQ(c.schedule.kind, ScheduleKind::Linear);
  EXPECT_EQ(c.schedule.decay, ScheduleDecay::Cosine);
  EXPECT_EQ(c.train.steps, 2000);
  EXPECT_EQ(c.train.seed, 1U);
  EXPECT_EQ(c.optimizer.groups[0].rate_factor, 1000);
  EXPECT_THAT(error_of("", {"train.steps=1.5e0"}), HasSubstr("the value is '1.5e0', expected a whole number"));
  EXPECT_THAT(error_of("", {"train.steps=1e19"}), HasSubstr("the value is '1e19', expected a whole number"));
}

TEST(ConfigSets, MistakesAreNamed) {
  EXPECT_THAT(error_of("", {"train.stpes=3"}),
              AllOf(HasSubstr("--set train.stpes=3"), HasSubstr("did you mean train.steps")));
  EXPECT_THAT(error_of("", {"steps=3"}), HasSubstr("did you mean train.steps"));
  EXPECT_THAT(error_of("", {"train.steps.more=3"}), HasSubstr("no field train.steps.more"));
  EXPECT_THAT(error_of("", {"train=3"}), AllOf(HasSubstr("train is a section"), HasSubstr("train.steps")));
  EXPECT_THAT(error_of("", {"train.steps=many"}), HasSubstr("the value is 'many', expected a whole number"));
  EXPECT_THAT(error_of("", {"train.steps="}), HasSubstr("expected a whole number"));
  EXPECT_THAT(error_of("", {"train.steps=3 seed: 4"}), HasSubstr("expected a whole number"));
  EXPECT_THAT(error_of("", {"train.seed=-1"}), HasSubstr("expected a whole number of 0 or more"));
  EXPECT_THAT(error_of("", {"train.recompute=perhaps"}), HasSubstr("expected true or false"));
  EXPECT_THAT(error_of("", {"schedule.kind=SINE"}),
              HasSubstr("expected one of COSINE, CONSTANT, LINEAR, WARMUP_STABLE_DECAY"));
  EXPECT_THAT(error_of("", {"student_init.layers=[1,x]"}), HasSubstr("the value is 'x'"));
  EXPECT_THAT(error_of("", {"train.steps"}), HasSubstr("expected section.field=value"));
  EXPECT_THAT(error_of("", {"=3"}), HasSubstr("expected section.field=value"));
  EXPECT_THAT(error_of("", {""}), HasSubstr("expected section.field=value"));
  EXPECT_THAT(error_of("", {"train..steps=1"}), HasSubstr("no field train..steps"));
  EXPECT_THAT(error_of("", {"data.sequence_length=0"}),
              AllOf(HasSubstr("--set data.sequence_length=0"), HasSubstr("expected 1 or more")));
}

TEST(ConfigSets, ASectionInBracesIsLaidOverTheConfig) {
  const std::string file = "model { width: 96 moe { num_experts: 4 } } train { seed: 5 }";
  const RunConfig c =
      parse_config(file, "x", {"model { width: 64 moe { experts_per_token: 1 } }", "train={ steps: 1e1 }"});
  EXPECT_EQ(c.model->architecture.width, 64);
  EXPECT_EQ(c.model->architecture.moe.num_experts, 4);
  EXPECT_EQ(c.model->architecture.moe.experts_per_token, 1);
  EXPECT_EQ(c.train.steps, 10);
  EXPECT_EQ(c.train.seed, 5U);
  EXPECT_EQ(parse_config("", "x", {"generation.prompt={a}"}).generation.prompt, "{a}");  // a text is no section
  EXPECT_THAT(error_of(file, {"model { width: 0 }"}), HasSubstr("--set model { width: 0 }:1:9: model.width is 0"));
}

TEST(ConfigSets, WhereverAFieldIsMisspeltTheNearestIsNamed) {
  for (const char* set : {"model { num_layer: 3 }", "model={ num_layer: 3 }"})
    EXPECT_EQ(error_of("", {set}),
              fmt::format("--set {}:1:9: there is no field num_layer, did you mean num_layers?", set));
  EXPECT_THAT(error_of("", {"model.num_layer=3"}),
              HasSubstr("no field model.num_layer, did you mean model.num_layers"));
  EXPECT_THAT(error_of("", {"modl=3"}), HasSubstr("no field modl, did you mean model?"));
  EXPECT_EQ(error_of("", {"evaluation.set={ nme: 'x' }"}),
            "--set evaluation.set={ nme: 'x' }: there is no field nme, did you mean name?");
  EXPECT_EQ(error_of("", {"evaluation.set={ name: x }"}), "--set evaluation.set={ name: x }: Expected string, got: x");
  EXPECT_THAT(error_of("optimizer { groups { pattern: 'a' } }", {"optimizer.groups[0].patern=b"}),
              HasSubstr("did you mean optimizer.groups[0].pattern?"));
}

}  // namespace
}  // namespace limbeck::launch
