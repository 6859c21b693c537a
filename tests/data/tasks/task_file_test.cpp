// Questions and how they are put: against lm-eval's own tasks, and Python (tests/golden/evaluation/make_tasks.py).
#include "data/tasks/task_file.h"

#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "data/tasks/exact_match.h"
#include "data/tasks/python_text.h"
#include "data/text/text_source.h"
#include "tests/support/teacher_file.h"
#include "tests/support/temporary_folder.h"

namespace limbeck::data {
namespace {

using nlohmann::json;
using testing::error_of;
using ::testing::HasSubstr;
using testing::TemporaryFolder;
using testing::write_file;

json golden(const std::string& file) { return json::parse(read_document(testing::golden_path("evaluation/" + file))); }

TEST(PythonText, IsPythons) {
  const json cases = golden("python.json");
  for (const json& one : cases["strings"]) {
    const std::string text = one["text"];
    EXPECT_EQ(strip(text), one["strip"]) << one;
    EXPECT_EQ(strip_end(text), one["rstrip"]) << one;
    EXPECT_EQ(num_characters(text), one["len"]) << one;
    EXPECT_EQ(lowered(text), one["lower"]) << one;
    EXPECT_EQ(capitalized(text), one["capitalize"]) << one;
  }
}

TEST(ExactMatch, FindsTheAnswersOfLmEvalsFilters) {
  const json cases = golden("python.json");
  for (const json& one : cases["answers"]) {
    const std::string text = one["text"];
    EXPECT_EQ(strict_answer(text), one["strict"]) << one;
    EXPECT_EQ(flexible_answer(text), one["flexible"]) << one;
  }
  int matches = 0;
  for (const json& one : cases["matches"]) {
    EXPECT_EQ(exactly_matches(one["answer"].get<std::string>(), one["reference"].get<std::string>()), one["is_match"])
        << one;
    matches += one["is_match"].get<bool>() ? 1 : 0;
  }
  EXPECT_GE(matches, 10);
}

TEST(ExactMatch, OfAGeneratedTextWhatStandsBeforeTheNextQuestionCounts) {
  EXPECT_EQ(before_next_question(" 42\n\nQuestion: and"), " 42\n\n");
  EXPECT_EQ(before_next_question(" 42</s> Question:"), " 42");
  EXPECT_EQ(before_next_question("<|im_end|>"), "");
  EXPECT_EQ(before_next_question(" 42"), " 42");
}

TEST(TaskFile, QuestionsArePutAsLmEvalPutsThem) {
  const json tasks = golden("tasks.json");
  for (const json& expected : tasks["results"]) {
    const std::string name = expected["task"];
    const TaskKind kind = task_kind(name);
    const auto read = [&](const char* split) {
      return read_questions(kind, testing::golden_path("evaluation/tasks/" + name + split));
    };
    const std::vector<Question> questions = read("_test.jsonl"), all = read("_dev.jsonl");
    ASSERT_EQ(questions.size(), expected["questions"].size());
    for (std::size_t i = 0; i < questions.size(); ++i) {
      std::vector<Question> examples;
      for (const Question& example : all)
        if (example.subject == questions[i].subject && std::ssize(examples) < expected["shots"])
          examples.push_back(example);
      EXPECT_EQ(prompt_of(questions[i], examples), expected["questions"][i]["context"]) << questions[i].place;
      if (form_of(kind) != TaskForm::Generation) {
        EXPECT_THAT(
            questions[i].continuations,
            ::testing::ElementsAreArray(expected["questions"][i]["continuations"].get<std::vector<std::string>>()));
      }
    }
  }
  EXPECT_EQ(tasks["results"].size(), 10U);
}

TEST(TaskFile, OtherSpellingsOfTheFormatsAreRead) {
  const TemporaryFolder folder;
  const auto first = [&](TaskKind kind, const std::string& line) {
    write_file(folder / "questions.jsonl", "\n" + line + "\n  \n");
    const std::vector<Question> questions = read_questions(kind, (folder.path() / "questions.jsonl").string());
    EXPECT_EQ(questions.size(), 1U);
    EXPECT_THAT(questions[0].place, ::testing::EndsWith("questions.jsonl:2"));
    return questions[0];
  };
  const Question arc = first(TaskKind::Arc, R"({"question":{"stem":"What?","choices":[{"text":"a","label":"A"},)"
                                            R"({"text":"b","label":"B"}]},"answerKey":"B"})");
  EXPECT_EQ(arc.context, "Question: What?\nAnswer:");
  EXPECT_EQ(arc.gold, 1U);
  EXPECT_EQ(first(TaskKind::Mmlu, R"({"question":"?","choices":["x","y","z"],"answer":"C"})").gold, 2U);
  EXPECT_EQ(first(TaskKind::Mmlu, R"({"question":"?","choices":["x","","0"],"answer":2})").context,
            "?\nA. x\nB. \nC. 0\nAnswer:");
  EXPECT_EQ(
      first(TaskKind::HellaSwag, R"({"activity_label":"l","ctx_a":"a","ctx_b":"","endings":["x","y"],"label":1})").gold,
      1U);
  const Question word = first(TaskKind::Lambada, R"({"text":"word"})");
  EXPECT_EQ(word.context, "");
  EXPECT_EQ(word.continuations[0], " word");
}

TEST(TaskFile, WhatIsNoQuestionIsNamedByFileAndLine) {
  const TemporaryFolder folder;
  const auto error = [&](TaskKind kind, const std::string& line) {
    write_file(folder / "q.jsonl",
               std::string(R"({"question":"a","answer":"b","text":"c d","choices":["x","y"]})") + "\n" + line);
    const std::string said = error_of([&] { read_questions(kind, (folder.path() / "q.jsonl").string()); });
    EXPECT_THAT(said, HasSubstr("q.jsonl:2")) << line;
    EXPECT_EQ(said.find('\n'), std::string::npos) << said;
    return said;
  };
  constexpr TaskKind gsm8k = TaskKind::Gsm8k, lambada = TaskKind::Lambada;
  EXPECT_THAT(error(gsm8k, "{\"question\": 3}"), HasSubstr("question is 3, expected a text"));
  EXPECT_THAT(error(gsm8k, "{}"), HasSubstr("question is absent"));
  EXPECT_THAT(error(gsm8k, "[1]"), HasSubstr("expected an object"));
  EXPECT_THAT(error(gsm8k, "{\"question\""), HasSubstr("q.jsonl:2"));
  EXPECT_THAT(error(gsm8k, R"({"question":"a","question":"b","answer":"c"})"), HasSubstr("question"));
  EXPECT_THAT(error(gsm8k, "{\"question\":\"\xff\",\"answer\":\"1\"}"), HasSubstr("q.jsonl:2"));
  EXPECT_THAT(error(gsm8k, std::string(100000, '[')), HasSubstr("q.jsonl:2"));
  EXPECT_THAT(error(gsm8k, R"({"question":"a","answer":""})"), HasSubstr("expected some text"));
  EXPECT_THAT(error(lambada, R"({"text":"ends in a space "})"), HasSubstr("ends in a word"));
  const auto other = [&](TaskKind kind, const std::string& line) {
    write_file(folder / "q.jsonl", line);
    return error_of([&] { read_questions(kind, (folder.path() / "q.jsonl").string()); });
  };
  EXPECT_THAT(other(TaskKind::Mmlu, R"({"question":"a","choices":["x"],"answer":0})"), HasSubstr("1 choices"));
  EXPECT_THAT(other(TaskKind::Mmlu, R"({"question":"a","choices":["x","y"],"answer":2})"), HasSubstr("answer is 2"));
  EXPECT_THAT(other(TaskKind::Mmlu, R"({"question":"a","choices":["x","y"],"answer":"C"})"), HasSubstr("answer is"));
  EXPECT_THAT(other(TaskKind::Mmlu, R"({"question":"a","choices":["x","y"],"answer":-1})"), HasSubstr("answer is -1"));
  EXPECT_THAT(other(TaskKind::Mmlu, R"({"question":"a","choices":{"x":1},"answer":0})"), HasSubstr("choices is"));
  EXPECT_THAT(other(TaskKind::Mmlu, R"({"question":"a","choices":)" + json(std::vector<int>(40, 1)).dump() + "}"),
              HasSubstr("choices[0] is 1, expected a text"));
  EXPECT_THAT(other(TaskKind::Mmlu, R"({"question":"a","choices":)" + json(std::vector<std::string>(40, "x")).dump() +
                                        R"(,"answer":0})"),
              HasSubstr("40 choices, expected 2 to 26"));
  EXPECT_THAT(other(TaskKind::Arc, R"({"question":"a","choices":{"text":["x","y"],"label":["A"]},"answerKey":"A"})"),
              HasSubstr("2 texts and 1 labels"));
  EXPECT_THAT(
      other(TaskKind::Arc, R"({"question":"a","choices":{"text":["x","y"],"label":["A","B"]},"answerKey":"C"})"),
      HasSubstr("answerKey is \"C\", expected one of A, B"));
  EXPECT_THAT(
      other(TaskKind::HellaSwag, R"({"activity_label":"l","ctx_a":"a","ctx_b":"","endings":["x","[y]"],"label":1})"),
      HasSubstr("more than marks"));
  EXPECT_THAT(
      other(TaskKind::HellaSwag, R"({"activity_label":"l","ctx_a":"a","ctx_b":"","endings":["x","y"],"label":""})"),
      HasSubstr("label is"));
  EXPECT_THAT(other(gsm8k, " \n"), HasSubstr("holds no questions"));
  EXPECT_THAT(error_of([] { task_kind("piqa"); }), HasSubstr("expected mmlu, hellaswag, arc, lambada, gsm8k"));
}

TEST(TaskFile, HellaSwagsMarksGoAsInLmEval) {
  const TemporaryFolder folder;
  const json texts = golden("python.json");
  for (const json& one : texts["marks"]) {
    if (one["preprocess"] == "") continue;
    const json question = {{"activity_label", "l"},
                           {"ctx_a", "a"},
                           {"ctx_b", ""},
                           {"endings", json::array({one["text"], "y"})},
                           {"label", 0}};
    write_file(folder / "q.jsonl", question.dump());
    EXPECT_EQ(read_questions(TaskKind::HellaSwag, (folder.path() / "q.jsonl").string())[0].choices[0],
              one["preprocess"])
        << one;
  }
}

}  // namespace
}  // namespace limbeck::data
