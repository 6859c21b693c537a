#include "data/tasks/task_file.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <limits>
#include <optional>
#include <utility>

#include "core/error.h"
#include "data/files/json_at.h"
#include "data/files/json_text.h"
#include "data/tasks/python_text.h"
#include "data/text/json_lines.h"

namespace limbeck::data {

using core::check;

namespace {

constexpr std::array<std::string_view, 5> names = {"mmlu", "hellaswag", "arc", "lambada", "gsm8k"};

constexpr std::int64_t most_choices = 26;
constexpr std::int64_t max_line_bytes = std::int64_t{1} << 26U;

std::vector<std::string> texts_of(const JsonAt& list, bool may_be_empty = false) {
  list.array();
  std::vector<std::string> texts;
  for (std::size_t i = 0; i < list.size(); ++i) {
    texts.push_back(list.at(i).text());
    if (texts.back().empty() && !may_be_empty) list.at(i).refuse("some text");
  }
  return texts;
}

void set_choices(Question& q, std::vector<std::string> choices, const JsonAt& where) {
  if (choices.size() < 2 || std::ssize(choices) > most_choices)
    core::fail("{} has {} choices, expected 2 to {}", where.where(), choices.size(), most_choices);
  q.choices = std::move(choices);
  for (const std::string& choice : q.choices) q.continuations.push_back(" " + choice);
}

/// A number, or a text of one as some files have it.
std::size_t index_of(const JsonAt& value, std::size_t count) {
  if (value.json().is_string()) {
    const std::string& text = value.text();
    for (std::size_t i = 0; i < count; ++i)
      if (text == std::to_string(i)) return i;
    value.refuse(fmt::format("the number of a choice, from 0 to {}", count - 1));
  }
  return static_cast<std::size_t>(value.index(count));
}

std::size_t place_in(const std::vector<std::string>& labels, const JsonAt& label) {
  const auto found = std::find(labels.begin(), labels.end(), label.text());
  if (found == labels.end()) label.refuse(fmt::format("one of {}", fmt::join(labels, ", ")));
  return static_cast<std::size_t>(found - labels.begin());
}

void read_mmlu(const JsonAt& line, Question& q) {
  std::vector<std::string> letters;
  const std::vector<std::string> texts = texts_of(line.at("choices"), /*may_be_empty=*/true);
  q.context = strip(line.at("question").text());
  for (std::size_t i = 0; i < std::min(texts.size(), static_cast<std::size_t>(most_choices)); ++i) {
    letters.emplace_back(1, static_cast<char>('A' + i));
    q.context += fmt::format("\n{}. {}", letters.back(), texts[i]);
  }
  if (std::ssize(texts) > most_choices) letters.resize(texts.size());  // as many as are refused
  q.context += "\nAnswer:";
  set_choices(q, letters, line.at("choices"));
  const JsonAt answer = line.at("answer");
  q.gold = answer.json().is_string() && std::find(letters.begin(), letters.end(), answer.text()) != letters.end()
               ? place_in(letters, answer)
               : index_of(answer, letters.size());
  if (const JsonAt subject = line.get("subject"); !subject.is_null()) q.subject = subject.text();
}

/// lm-eval's preprocess: what is left of WikiHow's marks goes.
std::string without_marks(std::string_view text) {
  const std::string dotted = replaced(strip(text), " [title]", ". ");
  std::string result;
  for (std::size_t at = 0; at < dotted.size();) {
    const std::size_t close = dotted[at] == '[' ? dotted.find_first_of("]\n", at) : std::string::npos;
    if (close != std::string::npos && dotted[close] == ']')
      at = close + 1;
    else
      result += dotted[at++];
  }
  return replaced(result, "  ", " ");
}

void read_hellaswag(const JsonAt& line, Question& q) {
  q.context = without_marks(line.at("activity_label").text() + ": " + line.at("ctx_a").text() + " " +
                            capitalized(line.at("ctx_b").text()));
  std::vector<std::string> endings = texts_of(line.at("endings"));
  for (std::string& ending : endings) {
    ending = without_marks(ending);
    if (ending.empty()) line.at("endings").refuse("endings of more than marks");
  }
  set_choices(q, std::move(endings), line.at("endings"));
  q.gold = index_of(line.at("label"), q.choices.size());
}

void read_arc(const JsonAt& line, Question& q) {
  std::vector<std::string> texts, labels;
  std::string stem;
  if (line.at("question").json().is_object()) {
    const JsonAt question = line.at("question"), choices = question.at("choices").array();
    stem = question.at("stem").text();
    for (std::size_t i = 0; i < choices.size(); ++i) {
      texts.push_back(choices.at(i).at("text").text());
      if (texts.back().empty()) choices.at(i).at("text").refuse("some text");
      labels.push_back(choices.at(i).at("label").text());
    }
    set_choices(q, std::move(texts), choices);
  } else {
    const JsonAt choices = line.at("choices");
    stem = line.at("question").text();
    texts = texts_of(choices.at("text"));
    labels = texts_of(choices.at("label"));
    check(labels.size() == texts.size(), "{} has {} texts and {} labels, expected as many", choices.where(),
          texts.size(), labels.size());
    set_choices(q, std::move(texts), choices);
  }
  q.context = fmt::format("Question: {}\nAnswer:", stem);
  q.gold = place_in(labels, line.at("answerKey"));
}

void read_lambada(const JsonAt& line, Question& q) {
  const std::string& text = line.at("text").text();
  const std::size_t space = text.rfind(' ');
  const std::string word = space == std::string::npos ? text : text.substr(space + 1);
  if (word.empty()) line.at("text").refuse("a text that ends in a word");
  if (space != std::string::npos) q.context = text.substr(0, space);
  q.choices = q.continuations = {" " + word};
}

void read_gsm8k(const JsonAt& line, Question& q) {
  q.context = fmt::format("Question: {}\nAnswer:", line.at("question").text());
  q.answer = line.at("answer").text();
  if (q.answer.empty()) line.at("answer").refuse("some text");
}

constexpr std::array<void (*)(const JsonAt&, Question&), names.size()> readers = {read_mmlu, read_hellaswag, read_arc,
                                                                                  read_lambada, read_gsm8k};

}  // namespace

TaskForm form_of(TaskKind kind) {
  if (kind == TaskKind::Lambada) return TaskForm::Cloze;
  return kind == TaskKind::Gsm8k ? TaskForm::Generation : TaskForm::Choice;
}

std::string_view name_of(TaskKind kind) { return names.at(static_cast<std::size_t>(kind)); }

TaskKind task_kind(std::string_view name) {
  const auto* found = std::find(names.begin(), names.end(), name);
  if (found == names.end()) core::fail_usage("there is no task '{}', expected {}", name, fmt::join(names, ", "));
  return static_cast<TaskKind>(found - names.begin());
}

Question read_question(TaskKind kind, std::string_view line, const std::string& place) {
  Question question{.place = place};
  const auto json = parse_json<nlohmann::json>(line, place);
  const JsonAt at(json, place);
  at.object();
  readers.at(static_cast<std::size_t>(kind))(at, question);
  return question;
}

std::vector<Question> read_questions(TaskKind kind, const std::string& file) {
  std::vector<Question> questions;
  LineReader reader(file, {}, max_line_bytes);
  for (bool more = true; more;) {
    const LineBlock block = reader.next();
    for_each_line(block, [&](std::string_view line, std::int64_t number) {
      questions.push_back(read_question(kind, line, fmt::format("{}:{}", file, number)));
    });
    more = !block.is_last;
  }
  check(!questions.empty(), "{}: holds no questions, expected a JSON object a line", file);
  return questions;
}

std::string description_of(const Question& question) {
  if (question.subject.empty()) return "";
  return fmt::format("The following are multiple choice questions (with answers) about {}.\n\n",
                     replaced(question.subject, "_", " "));
}

std::string example_text(const Question& example) {
  return fmt::format("{} {}\n\n", example.context,
                     example.choices.empty() ? example.answer : example.choices.at(example.gold));
}

std::string prompt_of(const Question& question, std::span<const Question> examples) {
  std::string prompt = description_of(question);
  for (const Question& example : examples) prompt += example_text(example);
  return prompt + question.context;
}

}  // namespace limbeck::data
