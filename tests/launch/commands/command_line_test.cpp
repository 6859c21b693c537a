#include "launch/commands/command_line.h"

#include <gmock/gmock.h>

#include <sys/wait.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "core/error.h"
#include "tests/support/places.h"
#include "tests/support/temporary_folder.h"

namespace limbeck::launch {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;

/// A command line with every command, which keeps what it was given.
struct Recorded {
  TrainOptions train, distill;
  EvalOptions eval;
  GenerateOptions generate;
  ConvertOptions convert;
  InspectOptions inspect;
  TokenizeOptions tokenize;
  VerifyOptions verify;
  PlanOptions plan;
  ReportOptions report;
  CompareOptions compare;
  LaunchOptions launch;
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
  line.verify(keep(recorded.verify, "verify"));
  line.plan(keep(recorded.plan, "plan"));
  line.report(keep(recorded.report, "report"));
  line.compare(keep(recorded.compare, "compare"));
  line.launch(keep(recorded.launch, "launch"));
  arguments.insert(arguments.begin(), "limbeck");
  const Invocation invocation = line.parse(static_cast<int>(arguments.size()), arguments.data());
  if (invocation.run) {
    EXPECT_EQ(invocation.run(), 7);
  }
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
                        "--steps", "5", "--threads", "3", "--dump-gradients", "g.h5"});
  EXPECT_EQ(r.ran, "train");
  EXPECT_EQ(r.train.configs, std::vector<std::filesystem::path>{"c.textproto"});
  EXPECT_EQ(r.train.sets, (std::vector<std::string>{"a.b=1", "c=[x, y]"}));
  EXPECT_EQ(r.train.out, "runs/x");
  EXPECT_TRUE(r.train.resume);
  EXPECT_EQ(r.train.steps, 5);
  EXPECT_EQ(r.train.threads, 3);
  EXPECT_EQ(r.train.dump_gradients, "g.h5");
}

TEST(CommandLine, SetsMayStandBeforeTheConfig) {
  const auto r = parse({"distill", "--set", "a.b=1", "c.textproto"});
  EXPECT_EQ(r.distill.configs, std::vector<std::filesystem::path>{"c.textproto"});
  EXPECT_EQ(r.distill.sets, (std::vector<std::string>{"a.b=1"}));
  EXPECT_FALSE(r.distill.resume);
  EXPECT_FALSE(r.distill.steps.has_value());
}

TEST(CommandLine, SeveralConfigsStandInTheirOrder) {
  using Paths = std::vector<std::filesystem::path>;
  EXPECT_EQ(parse({"train", "a", "--set", "x.y=1", "b", "--resume", "c"}).train.configs, (Paths{"a", "b", "c"}));
  const auto eval = parse({"eval", "a", "--set", "x.y=1", "b", "c"}).eval;
  EXPECT_EQ(eval.model, "a");
  EXPECT_EQ(eval.more, (Paths{"b", "c"}));
}

TEST(CommandLine, AnEmptyValueMayStandBehindAnEqualsSign) {
  EXPECT_EQ(parse({"generate", "m", "--prompt="}).generate.prompt, "");
  EXPECT_EQ(parse({"generate", "--prompt=", "m"}).generate.model, "m");
  EXPECT_EQ(parse({"generate", "m", "--prompt=a="}).generate.prompt, "a=");
  EXPECT_EQ(parse({"inspect", "f", "--tokenizer="}).inspect.tokenizer, "");
  EXPECT_EQ(parse({"train", "c", "--set", "data.text="}).train.sets, std::vector<std::string>{"data.text="});
  EXPECT_NE(error_of({"convert", "a", "b", "--dtype="}), "");
}

TEST(CommandLine, LaunchKeepsItsOwnAndGivesTheRestOn) {
  const std::vector<const char*> words = {"launch",   "--hostfile",    "hosts", "-n",   "8",  "-mca",  "btl",
                                          "tcp,self", "--min-ranks=4", "-x",    "PATH", "--", "train", "c.textproto",
                                          "--set",    "a.b=",          "-n",    "--",   "x"};
  const LaunchOptions launch = parse(words).launch;
  EXPECT_EQ(launch.ranks, 8);
  EXPECT_EQ(launch.min_ranks, 4);
  EXPECT_THAT(launch.mpirun, ElementsAre("--hostfile", "hosts", "-mca", "btl", "tcp,self", "-x", "PATH"));
  EXPECT_THAT(launch.command, ElementsAre("train", "c.textproto", "--set", "a.b=", "-n", "--", "x"));
  // As mpirun calls it too; -hostfile is mpirun's, and no -h.
  const LaunchOptions other = parse({"launch", "-np", "2", "-hostfile", "hosts", "--", "distill", "c"}).launch;
  EXPECT_EQ(other.ranks, 2);
  EXPECT_THAT(other.mpirun, ElementsAre("-hostfile", "hosts"));
  EXPECT_FALSE(other.min_ranks.has_value());
  const LaunchOptions limits = parse({"launch", "-n", "2", "--max-restarts", "3", "--silent-after", "30",
                                      "--step-deadline", "0", "--quiet", "--", "train", "c"})
                                   .launch;
  EXPECT_EQ(limits.max_restarts, 3);
  EXPECT_EQ(limits.silent_after, 30);
  EXPECT_EQ(limits.step_deadline, 0);
  EXPECT_TRUE(limits.mpirun.empty());
  EXPECT_THAT(error_of({"launch", "-n", "2", "train", "c"}), HasSubstr("-- train CONFIG"));
  EXPECT_THAT(error_of({"launch", "--", "train", "c"}), HasSubstr("-n"));
  EXPECT_THAT(error_of({"launch", "-n", "0", "--", "train", "c"}), HasSubstr("-n"));
  for (const char* folder : {"--wdir", "-wdir", "-wd", "--wdir=/tmp"})
    EXPECT_THAT(error_of({"launch", "-n", "2", folder, "/tmp", "--", "train", "c"}), HasSubstr("expected none"));
  EXPECT_THAT(parse({"launch", "--help"}).text, HasSubstr("limbeck launch -n 8"));
}

TEST(CommandLine, OtherCommandsTakeTheirs) {
  EXPECT_EQ(parse({"eval", "m", "--tokens", "t", "--logits", "l"}).eval.logits, "l");
  const EvalOptions text =
      parse({"eval",        "m",        "--text", "a",         "b",   "--teacher", "t",     "--window",
             "64",          "--stride", "16",     "--field",   "x.y", "--format",  "jsonl", "--parse-special",
             "--tokenizer", "bytes",    "--json", "--threads", "3"})
          .eval;
  EXPECT_EQ(text.model, "m");
  EXPECT_EQ(text.text, (std::vector<std::filesystem::path>{"a", "b"}));
  EXPECT_EQ(text.teacher, "t");
  EXPECT_EQ(text.window, 64);
  EXPECT_EQ(text.stride, 16);
  EXPECT_EQ(text.field, "x.y");
  EXPECT_EQ(text.format, "jsonl");
  EXPECT_TRUE(text.parse_special && text.json);
  EXPECT_EQ(text.tokenizer, "bytes");
  EXPECT_EQ(text.threads, 3);
  const auto generate =
      parse({"generate", "m", "--prompt", "Say: --hello", "--temperature", "0", "--top-p", "0.5"}).generate;
  EXPECT_EQ(generate.prompt, "Say: --hello");
  EXPECT_FALSE(generate.chat);
  const auto chat = parse({"generate", "m", "--chat", "--system", "Be brief.", "--prompt", "Hi"}).generate;
  EXPECT_TRUE(chat.chat);
  EXPECT_EQ(chat.system, "Be brief.");
  EXPECT_THAT(error_of({"generate", "m", "--system", "a", "--prompt", "Hi"}), HasSubstr("--chat"));
  EXPECT_EQ(generate.temperature, 0);
  EXPECT_EQ(generate.top_p, 0.5);
  EXPECT_EQ(generate.top_k, 40);
  EXPECT_FALSE(generate.prompts.has_value());
  const auto several =
      parse({"generate", "m", "--prompts", "-", "--field", "q", "--batch", "3", "--threads", "2", "--json"}).generate;
  EXPECT_EQ(several.prompts, "-");
  EXPECT_EQ(several.field, "q");
  EXPECT_EQ(several.batch, 3);
  EXPECT_EQ(several.threads, 2);
  EXPECT_TRUE(several.json);
  EXPECT_EQ(parse({"generate", "m", "--prompt", "-"}).generate.prompt, "-");
  EXPECT_EQ(parse({"convert", "a", "b", "--dtype", "bfloat16"}).convert.dtype, "bfloat16");
  EXPECT_EQ(parse({"convert", "a", "b.gguf", "--dtype", "q8_0"}).convert.dtype, "Q8_0");
  EXPECT_EQ(parse({"convert", "a", "b"}).convert.dtype, "float32");
  EXPECT_EQ(parse({"inspect", "f"}).inspect.file, "f");
  EXPECT_FALSE(parse({"inspect", "f"}).inspect.json);
  EXPECT_TRUE(parse({"inspect", "f", "--json"}).inspect.json);
  const VerifyOptions verified =
      parse({"verify", "c", "--layouts", "dp2,tp2+a.b=1", "--layouts", "ep2", "--ranks", "4", "--steps", "5",
             "--tolerance", "1e-4", "--precision", "float64", "--set", "c.d=2", "--json"})
          .verify;
  EXPECT_THAT(verified.layouts, ::testing::ElementsAre("dp2", "tp2+a.b=1", "ep2"));
  EXPECT_THAT(verified.sets, ::testing::ElementsAre("c.d=2"));
  EXPECT_EQ(verified.ranks, 4);
  EXPECT_EQ(verified.steps, 5);
  EXPECT_EQ(verified.tolerance, 1e-4);
  EXPECT_TRUE(verified.is_float64);
  EXPECT_TRUE(verified.json);
  EXPECT_THAT(parse({"verify", "c"}).verify.layouts, ::testing::ElementsAre("auto"));
  EXPECT_FALSE(parse({"verify", "c", "--precision", "float32"}).verify.is_float64);
  const PlanOptions planned = parse({"plan", "c", "d", "--ranks", "16", "--cluster", "f", "--json"}).plan;
  EXPECT_THAT(planned.configs, ::testing::ElementsAre("c", "d"));
  EXPECT_EQ(planned.ranks, 16);
  EXPECT_EQ(planned.cluster, "f");
  EXPECT_TRUE(planned.json);
  EXPECT_FALSE(planned.calibrates);
  EXPECT_THAT(error_of({"plan", "c"}), HasSubstr("--ranks"));
  EXPECT_THAT(error_of({"plan", "--ranks", "2"}), HasSubstr("CONFIG"));
  EXPECT_TRUE(parse({"plan", "--calibrate"}).plan.calibrates);
  EXPECT_EQ(parse({"plan", "--calibrate"}).plan.calibrated, "");
  EXPECT_EQ(parse({"plan", "--calibrate", "f"}).plan.calibrated, "f");
  EXPECT_THAT(error_of({"plan", "--calibrate", "--ranks", "2"}), HasSubstr("--ranks"));
  const Recorded compared = parse({"compare", "a", "b", "--json"});
  EXPECT_THAT(compared.compare.runs, ::testing::ElementsAre("a", "b"));
  EXPECT_TRUE(compared.compare.json);
  EXPECT_THAT(parse({"report", "a", "b", "c"}).report.runs, ::testing::ElementsAre("a", "b", "c"));
  EXPECT_EQ(parse({"train", "c d.textproto", "--set", "a.b=it's"}).train.command_line,
            R"(limbeck train 'c d.textproto' --set 'a.b=it'\''s')");
  EXPECT_EQ(parse({"inspect", "f", "--tokenizer", "bytes"}).inspect.tokenizer, "bytes");
  const auto tokenize = parse({"tokenize", "a", "b", "--tokenizer", "bytes", "--out", "p"}).tokenize;
  EXPECT_EQ(tokenize.paths.size(), 2U);
  EXPECT_EQ(tokenize.tokenizer, "bytes");
  EXPECT_EQ(tokenize.format, "auto");
  EXPECT_EQ(tokenize.field, "text");
  EXPECT_FALSE(tokenize.parse_special);
  EXPECT_FALSE(tokenize.force);
  EXPECT_TRUE(parse({"tokenize", "a", "--tokenizer", "bytes", "--out", "p", "--parse-special"}).tokenize.parse_special);
  EXPECT_TRUE(parse({"convert", "a", "b.gguf", "--force"}).convert.force);
  const auto lines =
      parse({"tokenize", "a", "--tokenizer", "bytes", "--out", "p", "--format", "jsonl", "--field", "a.b"}).tokenize;
  EXPECT_EQ(lines.format, "jsonl");
  EXPECT_EQ(lines.field, "a.b");
  EXPECT_FALSE(tokenize.train);
  const auto train = parse({"tokenize", "a", "--train", "--vocab", "512", "--special", "<e>", "--special", "<m>",
                            "--pretokenizer", "gpt-2", "--out", "p"})
                         .tokenize;
  EXPECT_TRUE(train.train);
  EXPECT_EQ(train.vocabulary, 512);
  EXPECT_EQ(train.special, (std::vector<std::string>{"<e>", "<m>"}));
  EXPECT_EQ(train.pretokenizer, "gpt-2");
  EXPECT_EQ(parse({"tokenize", "a", "--train", "--vocab", "512", "--out", "p"}).tokenize.special,
            std::vector<std::string>{"<|endoftext|>"});
  EXPECT_THAT(parse({"report", "runs/a"}).report.runs, ::testing::ElementsAre("runs/a"));
  EXPECT_FALSE(parse({"report", "runs/a"}).report.out.has_value());
  EXPECT_EQ(parse({"report", "runs/a", "--out", "x.html"}).report.out, "x.html");
}

TEST(CommandLine, EveryCommandTakesQuietAndVerbose) {
  EXPECT_EQ(parse({"train", "c"}).train.verbosity, Verbosity::Normal);
  EXPECT_EQ(parse({"train", "c", "--quiet"}).train.verbosity, Verbosity::Quiet);
  EXPECT_EQ(parse({"train", "--verbose", "c"}).train.verbosity, Verbosity::Verbose);
  EXPECT_EQ(parse({"eval", "m", "--quiet"}).eval.verbosity, Verbosity::Quiet);
  EXPECT_EQ(parse({"report", "r", "--verbose"}).report.verbosity, Verbosity::Verbose);
  EXPECT_THAT(error_of({"train", "c", "--quiet", "--verbose"}), HasSubstr("--quiet"));
  EXPECT_THAT(parse({"--help"}).text, AllOf(HasSubstr("--quiet"), HasSubstr("--verbose")));
  EXPECT_THAT(parse({"inspect", "--help"}).text, HasSubstr("--quiet"));
}

TEST(CommandLine, HelpHasAnExampleAndTheDefaults) {
  EXPECT_THAT(parse({"--help"}).text, AllOf(HasSubstr("distill"), HasSubstr("tokenize"), HasSubstr("Exit code")));
  for (const char* command : {"train", "distill", "eval", "generate", "convert", "inspect", "tokenize", "verify",
                              "plan", "report", "compare", "launch"}) {
    const auto r = parse({command, "--help"});
    EXPECT_THAT(r.text, AllOf(HasSubstr("Example"), HasSubstr(std::string("limbeck ") + command)));
    EXPECT_THAT(r.text, Not(HasSubstr("checkpoints/step_")));  // steps differ from run to run
    EXPECT_EQ(r.ran, "");
  }
}

TEST(CommandLine, HelpFitsAScreen) {
  const std::string all = parse({"--help"}).text;
  std::vector<std::string> commands;
  std::istringstream lines(all.substr(all.find("\nCommands:\n") + 11));
  for (std::string line; std::getline(lines, line) && !line.empty();)
    if (line[2] != ' ') commands.push_back(line.substr(2, line.find(' ', 2) - 2));
  ASSERT_THAT(commands, ElementsAre("train", "distill", "eval", "generate", "convert", "inspect", "tokenize", "verify",
                                    "plan", "report", "compare", "launch"));
  commands.emplace_back();  // the program's own
  for (const std::string& command : commands) {
    const std::string help = command.empty() ? all : parse({command.c_str(), "--help"}).text;
    EXPECT_LE(std::count(help.begin(), help.end(), '\n'), 40) << help;
    std::istringstream in(help);
    for (std::string line; std::getline(in, line);) EXPECT_LE(line.size(), 100U) << line;
    EXPECT_THAT(help, AllOf(Not(HasSubstr("\n\n\n")), Not(HasSubstr(" \n")), Not(EndsWith("\n\n"))));
    EXPECT_THAT(help, Not(HasSubstr("mpirun -n")));  // without --bind-to none two ranks share a core
  }
}

/// The words of a command's help, without its line breaks.
std::string words_of_help(const char* command) {
  std::istringstream in(parse({command, "--help"}).text);
  std::string text;
  for (std::string word; in >> word;) text += word + " ";
  return text;
}

TEST(CommandLine, HelpOfAnOptionSaysWhatItTakesAndNeeds) {
  EXPECT_THAT(parse({"eval", "--help"}).text,
              HasSubstr("\n  --logits OUT.h5           Write /tokens [T] and /logits [T,V] (needs --tokens)\n"));
  EXPECT_THAT(words_of_help("eval"), AllOf(HasSubstr(" --format TEXT text: a file"),
                                           HasSubstr("(auto, text, jsonl, chat, pairs; default auto) ")));
  EXPECT_THAT(words_of_help("generate"),
              AllOf(HasSubstr("Usage: limbeck generate [OPTIONS] CHECKPOINT "), HasSubstr("(not with --prompts)"),
                    HasSubstr("--top-k N Sample"), HasSubstr("(default 40)")));
  EXPECT_THAT(words_of_help("tokenize"),
              AllOf(HasSubstr("Usage: limbeck tokenize [OPTIONS] PATH... "), HasSubstr("(required)")));
}

TEST(CommandLine, HelpFieldsListsTheConfig) {
  for (const char* command : {"train", "distill", "eval"}) {
    EXPECT_THAT(parse({command, "--help"}).text, HasSubstr("--help-fields"));
    const auto r = parse({command, "--help-fields"});
    EXPECT_THAT(r.text, AllOf(HasSubstr("\ntrain.steps "), HasSubstr("docs/config.md")));
    EXPECT_EQ(r.ran, "");
  }
}

TEST(CommandLine, HelpOfTrainingSaysWhatASignalDoes) {
  for (const char* command : {"train", "distill"})
    EXPECT_THAT(parse({command, "--help"}).text, AllOf(HasSubstr("Exit code 3"), HasSubstr("docs/runs.md")));
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
  EXPECT_THAT(error_of({"eval", "m", "--logits", "l"}), HasSubstr("--tokens"));
  EXPECT_THAT(error_of({"eval", "m", "--text", "a", "--stride", "0"}), HasSubstr("expected a whole number, 1 or more"));
  EXPECT_THAT(error_of({"eval", "m", "--parse-special"}), HasSubstr("--text"));
  EXPECT_THAT(error_of({"generate", "m"}), HasSubstr("--prompt"));
  EXPECT_THAT(error_of({"generate", "m", "--prompt", "x", "--prompts", "y"}), HasSubstr("--prompts"));
  EXPECT_THAT(error_of({"generate", "m", "--prompt", "x", "--field", "y"}), HasSubstr("--prompts"));
  EXPECT_THAT(error_of({"generate", "m", "--prompt", "x", "--top-p", "1.5"}), HasSubstr("--top-p"));
  EXPECT_THAT(error_of({"convert", "a", "b", "--dtype", "int4"}), HasSubstr("--dtype"));
  EXPECT_THAT(error_of({"tokenize", "a", "--out", "p"}), HasSubstr("--tokenizer"));
  EXPECT_THAT(error_of({"tokenize", "a", "--out", "p", "--train"}), HasSubstr("--vocab"));
  EXPECT_THAT(error_of({"tokenize", "a", "--out", "p", "--train", "--vocab", "256"}), HasSubstr("--vocab"));
  EXPECT_THAT(error_of({"tokenize", "a", "--out", "p", "--tokenizer", "bytes", "--vocab", "300"}),
              HasSubstr("--train"));
}

TEST(CommandLine, NumbersAreFiniteWithinTheirRangeAndShortInMessages) {
  const auto generate = [](const char* option, const char* value) {
    return error_of({"generate", "m", "--prompt", "x", option, value});
  };
  struct Case {
    const char* option;
    const char* value;
    const char* expected;
  };
  for (const Case& c : std::initializer_list<Case>{{"--temperature", "nan", "'nan' is given, expected 0 or more"},
                                                   {"--temperature", "inf", "expected 0 or more"},
                                                   {"--temperature", "1e999", "expected 0 or more"},
                                                   {"--temperature", "-1", "expected 0 or more"},
                                                   {"--top-p", "0", "expected above 0 to 1"},
                                                   {"--top-p", "nan", "expected above 0 to 1"},
                                                   {"--top-k", "2.5", "expected a whole number, 0 or more"},
                                                   {"--batch", "0", "expected a whole number, 1 to"},
                                                   {"--threads", "-1", "expected a whole number, 0 to"},
                                                   {"--seed", "-1", "expected a whole number, 0 or more"},
                                                   {"--seed", "18446744073709551616", "expected a whole number"},
                                                   {"--max-tokens", "9223372036854775808", "expected a whole number"}})
    EXPECT_THAT(generate(c.option, c.value), AllOf(::testing::StartsWith(c.option), HasSubstr(c.expected)))
        << c.option << " " << c.value;
  EXPECT_EQ(parse({"generate", "m", "--prompt", "x", "--seed", "18446744073709551615"}).generate.seed,
            18446744073709551615U);
  EXPECT_EQ(parse({"generate", "m", "--prompt", "x", "--top-p", "1"}).generate.top_p, 1);
  EXPECT_EQ(parse({"generate", "m", "--prompt", "x", "--seed", "010"}).generate.seed, 10U);
  EXPECT_EQ(parse({"train", "c", "--steps", "08"}).train.steps, 8);
  EXPECT_EQ(parse({"train", "c", "--steps", "1.5e3"}).train.steps, 1500);
  EXPECT_EQ(error_of({"train", "c", "--steps", "0"}),
            "--steps: '0' is given, expected a whole number, 1 or more (see limbeck train --help)");
  EXPECT_THAT(error_of({"tokenize", "a", "--tokenizer", "bytes", "--out", "p", "--threads", "5000"}),
              HasSubstr("0 to 4096"));
}

TEST(CommandLine, FoldersOfFilesToWriteAreThere) {
  EXPECT_THAT(error_of({"eval", "m", "--tokens", "t", "--logits", "/no/such/l.h5"}),
              AllOf(HasSubstr("--logits"), HasSubstr("there is no folder /no/such")));
  EXPECT_THAT(error_of({"train", "c", "--dump-gradients", "/no/such/g.h5"}),
              AllOf(HasSubstr("--dump-gradients"), HasSubstr("there is no folder /no/such")));
}

TEST(CommandLine, ARunKnowsHowItWasStarted) {
  std::string program;
  CommandLine line;
  line.train([&](const TrainOptions& options) {
    program = options.program;
    return 0;
  });
  const char* arguments[] = {"build/bin/limbeck", "train", "c"};
  line.parse(3, arguments).run();
  EXPECT_EQ(program, "build/bin/limbeck");
}

TEST(CommandLine, CommandsThatAreNotBuiltDoNotExist) {
  for (const char* command : {"dpo", "cache-teacher", "plan"}) EXPECT_NE(error_of({command, "c"}), "");
  CommandLine empty;
  const char* arguments[] = {"limbeck", "train", "c"};
  EXPECT_THROW(empty.parse(3, arguments), core::UsageError);
}

/// Exit code and standard error of the built program; standard error alone, so that it is one line.
std::pair<int, std::string> run_limbeck(const std::string& arguments) {
  const std::string command = limbeck::testing::program().string() + " " + arguments + " 2>&1 >/dev/null";
  FILE* pipe = popen(command.c_str(), "r");
  std::string output;
  for (int c = std::fgetc(pipe); c != EOF; c = std::fgetc(pipe)) output += static_cast<char>(c);
  return {WEXITSTATUS(pclose(pipe)), output};
}

TEST(Program, ExitsWith0DoneWith1FailedWith2WrongUse) {
  const testing::TemporaryFolder folder;
  EXPECT_EQ(run_limbeck("--version"), std::pair(0, std::string()));
  EXPECT_EQ(run_limbeck("inspect --help").first, 0);
  for (const char* wrong :
       {"", "trian x", "inspect", "inspect a b", "compare", "report", "inspect /no/such/file", "--frobnicate"}) {
    const auto [code, error] = run_limbeck(wrong);
    EXPECT_EQ(code, 2) << wrong;
    EXPECT_THAT(error, AllOf(::testing::StartsWith("limbeck: error: "), ::testing::EndsWith("\n")));
    EXPECT_EQ(std::count(error.begin(), error.end(), '\n'), 1) << error;
  }
  testing::write_file(folder.path() / "short.gguf", "GGUF");
  const auto [code, error] = run_limbeck("inspect " + (folder.path() / "short.gguf").string());
  EXPECT_EQ(code, 1);
  EXPECT_THAT(error, HasSubstr("short.gguf"));
}

}  // namespace
}  // namespace limbeck::launch
