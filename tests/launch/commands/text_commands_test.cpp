// `limbeck tokenize` and `limbeck inspect` of token files, and training on JSON lines, as users do it.
#include <fmt/format.h>
#include <gmock/gmock.h>

#include "tests/support/places.h"
#include "tests/support/run_limbeck.h"
#include "tests/support/temporary_folder.h"

namespace limbeck::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;

TEST(TextCommands, JsonLinesBecomeTokensAndAreTrainedOn) {
  const RunFolder folder("json_lines");
  std::string lines;
  for (int i = 0; i < 200; ++i)
    lines += "{\"id\": " + std::to_string(i) + ", \"doc\": {\"body\": \"Document " + std::to_string(i) +
             " says what the one before it said, and a little more.\"}}\n";
  folder.write("a.jsonl", lines);
  Outcome outcome = folder.limbeck("tokenize a.jsonl --field doc.body --tokenizer bytes --out tokens/a --threads 2");
  EXPECT_EQ(outcome.code, 0) << outcome.output;
  EXPECT_THAT(outcome.output, HasSubstr("200 documents, "));

  outcome = folder.limbeck("inspect tokens/a --tokenizer bytes");
  EXPECT_EQ(outcome.code, 0) << outcome.output;
  EXPECT_THAT(outcome.output, HasSubstr("kind        token file\ntype        uint16\n"));
  EXPECT_THAT(outcome.output, HasSubstr("documents   200\n"));
  EXPECT_THAT(outcome.output, HasSubstr("tokens      13090\n"));
  EXPECT_THAT(outcome.output, HasSubstr("shortest 64, median 65, 90 % 66, 99 % 66, longest 66\n"));
  EXPECT_THAT(outcome.output, HasSubstr("200 documents by token 256 \"<|endoftext|>\", which is 1.528 % of all"));
  EXPECT_THAT(outcome.output, HasSubstr("33 ids used, 32 to 256, "));
  EXPECT_THAT(outcome.output, HasSubstr("64 to 127          200  ####"));

  const auto json = nlohmann::json::parse(folder.limbeck("inspect tokens/a --tokenizer bytes --json").output);
  EXPECT_EQ(json["documents"], 200);
  EXPECT_EQ(json["tokens"], 13090);
  EXPECT_EQ(json["length"]["longest"], 66);
  EXPECT_EQ(json["made_by"]["is_given_tokenizer"], true);
  EXPECT_EQ(json["ends"]["documents"], 200);

  const auto train = [&](const std::string& run, const std::string& text) {
    const Outcome trained = folder.limbeck("train tiny.textproto --steps 2 --out runs/" + run + " " + text);
    EXPECT_EQ(trained.code, 0) << trained.output;
    return folder.metrics("runs/" + run);
  };
  const auto metrics = train("lines", "--set data.text=a.jsonl --set data.field=doc.body");
  EXPECT_THAT(metrics, SizeIs(2));
  EXPECT_EQ(metrics, train("tokens", "--set data.text=[] --set data.tokens=tokens/a"));
}

TEST(TextCommands, EveryFieldTokenizerAndFormatHasATokenFileOfItsOwn) {
  const RunFolder folder("token_cache");
  folder.write("bpe.model", read_file(golden_folder() / "sentencepiece/bpe.model"));
  std::string lines;
  for (int i = 0; i < 60; ++i)
    lines += "{\"one\": \"" + std::string(50, 'a') + "\", \"two\": \"" + std::string(50, 'b') + "\"}\n";
  folder.write("a.txt", lines);
  const auto losses = [&](const std::string& settings, const std::string& cache, const std::string& run) {
    const Outcome outcome =
        folder.limbeck("train tiny.textproto --steps 1 --set data.text=a.txt --set data.cache_dir=" + cache +
                       " --out runs/" + run + " " + settings);
    EXPECT_EQ(outcome.code, 0) << outcome.output;
    return folder.metrics("runs/" + run);
  };
  const std::string as_lines = "--set data.format=JSON_LINES --set data.field=";
  const std::vector<std::string> ways = {as_lines + "one", as_lines + "two", "--set data.held_out_fraction=0",
                                         as_lines + "one --set data.tokenizer=bpe.model"};
  std::vector<std::vector<nlohmann::json>> found;
  for (std::size_t i = 0; i < ways.size(); ++i) {  // one cache for all, and each with its own
    found.push_back(losses(ways[i], "cache", fmt::format("shared{}", i)));
    EXPECT_EQ(losses(ways[i], fmt::format("cache{}", i), fmt::format("own{}", i)), found.back()) << ways[i];
    for (std::size_t j = 0; j < i; ++j) EXPECT_NE(found[j], found[i]) << ways[i];
  }
  std::size_t num_files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder.path() / "cache"))
    num_files += entry.path().extension() == ".bin" ? 1 : 0;
  EXPECT_EQ(num_files, ways.size());
}

TEST(TextCommands, AMixtureIsTrainedOnAndResumed) {
  const RunFolder folder("mixture");
  std::string lines;
  for (int i = 0; i < 60; ++i) lines += "{\"body\": \"" + std::string(60, static_cast<char>('A' + i % 26)) + "\"}\n";
  folder.write("a.jsonl", lines);
  const std::string how =
      "tiny.textproto --set data.text=[] --set 'data.sources={ text: \"a.jsonl\" field: \"body\" weight: 0.25 }' "
      "--set 'data.sources={ text: \"text\" weight: 0.75 }' --set train.steps=8 ";
  const auto run = [&](const std::string& arguments, int ranks = 1) {
    const Outcome outcome = folder.limbeck("train " + how + arguments, ranks);
    EXPECT_EQ(outcome.code, 0) << outcome.output;
    return outcome.output;
  };
  const std::string output = run("--out runs/whole");
  EXPECT_THAT(output, HasSubstr("0.2500 of the samples"));
  EXPECT_THAT(output, HasSubstr("0.7500 of the samples"));
  EXPECT_THAT(folder.read("runs/whole/config.textproto"), HasSubstr("weight: 0.25"));
  run("--out runs/parts --steps 3", 2);
  run("--out runs/parts --resume --steps 5", 2);
  run("--out runs/parts --resume", 2);
  const auto whole = folder.metrics("runs/whole");
  const auto parts = folder.metrics("runs/parts");
  ASSERT_THAT(whole, SizeIs(8));
  ASSERT_THAT(parts, SizeIs(8));
  for (std::size_t i = 0; i < 8; ++i)
    EXPECT_NEAR(whole[i]["ce"].get<double>(), parts[i]["ce"].get<double>(), 1e-4) << i;

  Outcome outcome =
      folder.limbeck("train " + how + "--set 'data.sources={ text: \"text\" }' --out runs/parts --resume");
  EXPECT_EQ(outcome.code, 1);
  EXPECT_THAT(outcome.output, HasSubstr("weights of data.sources = [0.25, 0.75], the config says [0.25, 0.75, 1]"));
  outcome = folder.limbeck("eval runs/whole");
  EXPECT_EQ(outcome.code, 0) << outcome.output;
}

TEST(TextCommands, BadTextIsOneLine) {
  const RunFolder folder("bad_text");
  folder.write("a.jsonl", "{\"text\": \"a\"}\n{\"txt\": \"b\"}\n");
  folder.write("b.json", "{}");
  folder.write("c.txt.gz", "\x1f\x8b\x08 rubbish");
  folder.write("d.zst", "\x28\xb5\x2f\xfd rubbish");
  folder.write("t.idx", "MMIDIDX rubbish");
  folder.write("t.bin", "");
  const auto error = [&](const std::string& arguments, int code) {
    const Outcome outcome = folder.limbeck(arguments);
    EXPECT_EQ(outcome.code, code) << outcome.output;
    const auto lines = outcome.lines_with("error");
    EXPECT_THAT(lines, SizeIs(1)) << outcome.output;
    return lines.empty() ? "" : lines[0];
  };
  const std::string how = " --tokenizer bytes --out tokens/x";
  EXPECT_THAT(error("tokenize a.jsonl" + how, 1),
              HasSubstr("a.jsonl:2: has no field \"text\", expected a string there"));
  EXPECT_THAT(error("tokenize a.jsonl --field a." + how, 2), HasSubstr("the field is 'a.'"));
  EXPECT_THAT(error("tokenize a.jsonl --format csv" + how, 2), HasSubstr("--format"));
  EXPECT_THAT(error("tokenize b.json" + how, 2), HasSubstr("b.json: may be JSON lines or plain text"));
  EXPECT_THAT(error("tokenize c.txt.gz" + how, 1), HasSubstr("c.txt.gz: cannot be read after 0 bytes"));
  EXPECT_THAT(error("tokenize d.zst" + how, 1), HasSubstr("d.zst: cannot be read after 0 bytes"));
  EXPECT_THAT(error("tokenize none" + how, 1), HasSubstr("none: is not there"));
  EXPECT_THAT(error("inspect t.idx", 1), HasSubstr("t.idx: has 15 bytes, expected a token index"));
  EXPECT_THAT(error("train tiny.textproto --set data.text=a.jsonl", 1), HasSubstr("a.jsonl:2: has no field"));
  EXPECT_THAT(error("train tiny.textproto --set data.format=CSV", 2), HasSubstr("AUTO, PLAIN, JSON_LINES"));
}

}  // namespace
}  // namespace limbeck::testing
