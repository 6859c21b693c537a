// Questions from JSON lines, in the formats in which benchmarks come, and the texts by which each is put to a model:
// those of PyPI's lm-eval 0.4.13, whose tasks are mmlu, hellaswag, arc_easy and arc_challenge, lambada_openai and
// gsm8k.
//
//     const std::vector<Question> questions = read_questions(TaskKind::Arc, "arc.jsonl");
//     questions[0].context;                             // "Question: What is a still?\nAnswer:"
//     questions[0].continuations;                       // {" A vessel", " A lamp"}
//     prompt_of(questions[0], examples);                // the examples with their answers in front
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace limbeck::data {

/// A line of each:
///   Mmlu       {"question", "choices": 2 to 26 texts, "answer": index or letter, "subject"?}
///   HellaSwag  {"activity_label", "ctx_a", "ctx_b", "endings": texts, "label": index}
///   Arc        {"question", "choices": {"text": texts, "label": texts}, "answerKey": a label}; or, as AI2 has it,
///              {"question": {"stem", "choices": [{"text", "label"}]}, "answerKey"}
///   Lambada    {"text"}: its last word is the question
///   Gsm8k      {"question", "answer": ends in "#### 42"}
enum class TaskKind : std::uint8_t { Mmlu, HellaSwag, Arc, Lambada, Gsm8k };
/// Which continuation is likeliest; whether the one is what the model says; what it says of its own.
enum class TaskForm : std::uint8_t { Choice, Cloze, Generation };

struct Question {
  std::string place;                            // "FILE:LINE"
  std::string subject = {};                     // of Mmlu, empty where there is none
  std::string context = {};                     // what stands before the answer
  std::vector<std::string> choices = {};        // their lengths count; of a cloze its only one
  std::vector<std::string> continuations = {};  // of `context`, a choice each
  std::size_t gold = 0;                         // the right choice
  std::string answer = {};                      // of Generation: text that has the right number
};

TaskForm form_of(TaskKind kind);
/// "mmlu", "hellaswag", "arc", "lambada", "gsm8k".
std::string_view name_of(TaskKind kind);
/// Throws a UsageError for another name.
TaskKind task_kind(std::string_view name);

/// Of a line. Throws, naming `place`, for what is no such question.
Question read_question(TaskKind kind, std::string_view line, const std::string& place);
/// Every line of the file that is not blank; packed ones too. Throws, naming file and line, for what is no such
/// question, and where there is none.
std::vector<Question> read_questions(TaskKind kind, const std::string& file);

/// What is said before all questions of a subject; empty where nothing is.
std::string description_of(const Question& question);
/// A question as an example: with its answer.
std::string example_text(const Question& example);
/// Description, examples, context.
std::string prompt_of(const Question& question, std::span<const Question> examples);

}  // namespace limbeck::data
