#include "launch/command_line.h"

#include <gmock/gmock.h>

#include <string>
#include <vector>

#include "core/error.h"

namespace limbeck::launch {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

/// A command line with every command, which keeps what it was given.
struct Recorded {
  TrainOptions train, distill;
  EvalOptions eval;
  GenerateOptions generate;
  ConvertOptions convert;
  InspectOptions inspect;
  TokenizeOptions tokenize;
  std::string ran;
  std::string text;
};

Recorded parse(std::vector<const char*> arguments) {
  Recorded recorded;
  CommandLine line;
  const auto keep = [&recorded](auto& options, const char* name) {
    return [&recorded, &options, name](const auto& given) {
      options = given;
      recorded.ran = name;
      return 7;
    };
  };
  line.train(keep(recorded.train, "train"));
  line.distill(keep(recorded.distill, "distill"));
  line.eval(keep(recorded.eval, "eval"));
  line.generate(keep(recorded.generate, "generate"));
  line.convert(keep(recorded.convert, "convert"));
  line.inspect(keep(recorded.inspect, "inspect"));
  line.tokenize(keep(recorded.tokenize, "tokenize"));
  arguments.insert(arguments.begin(), "limbeck");
  const Invocation invocation = line.parse(static_cast<int>(arguments.size()), arguments.data());
  if (invocation.run) EXPECT_EQ(invocation.run(), 7);
  recorded.text = invocation.text;
  return recorded;
}

std::string error_of(const std::vector<const char*>& arguments) {
  try {
    parse(arguments);
  } catch (const core::UsageError& error) {
    EXPECT_THAT(error.what(), Not(HasSubstr("\n")));
    return error.what();
  }
  return "";
}

TEST(CommandLine, TrainTakesItsOptions) {
  const auto r = parse({"train", "c.textproto", "--set", "a.b=1", "--set", "c=[x, y]", "--out", "runs/x", "--resume",
                        "--steps", "5", "--dump-gradients", "g.h5"});
  EXPECT_EQ(r.ran, "train");
  EXPECT_EQ(r.train.config, "c.textproto");
  EXPECT_EQ(r.train.sets, (std::vector<std::string>{"a.b=1", "c=[x, y]"}));
  EXPECT_EQ(r.train.out, "runs/x");
  EXPECT_TRUE(r.train.resume);
  EXPECT_EQ(r.train.steps, 5);
  EXPECT_EQ(r.train.dump_gradients, "g.h5");
}

TEST(CommandLine, SetsMayStandBeforeTheConfig) {
  const auto r = parse({"distill", "--set", "a.b=1", "c.textproto"});
  EXPECT_EQ(r.distill.config, "c.textproto");
  EXPECT_EQ(r.distill.sets, (std::vector<std::string>{"a.b=1"}));
  EXPECT_FALSE(r.distill.resume);
  EXPECT_FALSE(r.distill.steps.has_value());
}

TEST(CommandLine, OtherCommandsTakeTheirs) {
  EXPECT_EQ(parse({"eval", "m", "--tokens", "t", "--logits", "l"}).eval.logits, "l");
  const auto generate =
      parse({"generate", "m", "--prompt", "Say: --hello", "--temperature", "0", "--top-p", "0.5"}).generate;
  EXPECT_EQ(generate.prompt, "Say: --hello");
  EXPECT_EQ(generate.temperature, 0);
  EXPECT_EQ(generate.top_p, 0.5);
  EXPECT_EQ(generate.top_k, 40);
  EXPECT_EQ(parse({"convert", "a", "b", "--dtype", "bfloat16"}).convert.dtype, "bfloat16");
  EXPECT_EQ(parse({"inspect", "f"}).inspect.file, "f");
  const auto tokenize = parse({"tokenize", "a", "b", "--tokenizer", "bytes", "--out", "p"}).tokenize;
  EXPECT_EQ(tokenize.paths.size(), 2U);
  EXPECT_EQ(tokenize.tokenizer, "bytes");
}

TEST(CommandLine, HelpHasAnExampleAndTheDefaults) {
  EXPECT_THAT(parse({"--help"}).text, AllOf(HasSubstr("distill"), HasSubstr("tokenize"), HasSubstr("Exit code")));
  for (const char* command : {"train", "distill", "eval", "generate", "convert", "inspect", "tokenize"}) {
    const auto r = parse({command, "--help"});
    EXPECT_THAT(r.text, AllOf(HasSubstr("Example"), HasSubstr(std::string("limbeck ") + command)));
    EXPECT_EQ(r.ran, "");
  }
  EXPECT_THAT(parse({"train", "--help"}).text, HasSubstr("sequence_length: 256"));
}

TEST(CommandLine, VersionNamesTheLibraries) {
  EXPECT_THAT(parse({"--version"}).text, AllOf(HasSubstr("limbeck "), HasSubstr("HDF5"), HasSubstr("protobuf"),
                                               HasSubstr("MPI"), HasSubstr("cpu")));
}

TEST(CommandLine, MistakesAreUsageErrorsOfOneLine) {
  EXPECT_THAT(error_of({}), HasSubstr("subcommand"));
  EXPECT_THAT(error_of({"distil", "c"}), HasSubstr("distil"));
  EXPECT_THAT(error_of({"train"}), AllOf(HasSubstr("CONFIG"), HasSubstr("limbeck train --help")));
  EXPECT_THAT(error_of({"train", "c", "--stepz", "3"}), HasSubstr("--stepz"));
  EXPECT_THAT(error_of({"train", "c", "--steps", "0"}), HasSubstr("--steps"));
  EXPECT_THAT(error_of({"train", "c", "--steps", "many"}), HasSubstr("many"));
  EXPECT_THAT(error_of({"train", "c", "d"}), HasSubstr("d"));
  EXPECT_THAT(error_of({"eval", "m", "--tokens", "t"}), HasSubstr("--logits"));
  EXPECT_THAT(error_of({"generate", "m"}), HasSubstr("--prompt"));
  EXPECT_THAT(error_of({"generate", "m", "--prompt", "x", "--top-p", "1.5"}), HasSubstr("--top-p"));
  EXPECT_THAT(error_of({"convert", "a", "b", "--dtype", "int4"}), HasSubstr("--dtype"));
  EXPECT_THAT(error_of({"tokenize", "a", "--out", "p"}), HasSubstr("--tokenizer"));
}

TEST(CommandLine, CommandsThatAreNotBuiltDoNotExist) {
  for (const char* command : {"dpo", "cache-teacher", "verify", "plan", "report"})
    EXPECT_NE(error_of({command, "c"}), "");
  CommandLine empty;
  const char* arguments[] = {"limbeck", "train", "c"};
  EXPECT_THROW(empty.parse(3, arguments), core::UsageError);
}

}  // namespace
}  // namespace limbeck::launch
