// A byte for the kind, and a line of any bytes as a question of it: what is none is refused in words, in one line; of
// what is accepted there is an answer, and everything can be asked.
#include <cstdlib>
#include <string>
#include <string_view>

#include "core/error.h"
#include "data/tasks/exact_match.h"
#include "data/tasks/task_file.h"

using namespace limbeck;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const auto kind = static_cast<data::TaskKind>(data[0] % 5);
  const std::string_view line(reinterpret_cast<const char*>(data) + 1, size - 1);
  for (const std::string& answer : {data::strict_answer(line), data::flexible_answer(line)})
    if (answer != data::no_answer && line.find(answer) == std::string_view::npos) std::abort();
  try {
    const data::Question question = data::read_question(kind, line, "questions.jsonl:1");
    const bool is_generation = data::form_of(kind) == data::TaskForm::Generation;
    if (question.continuations.size() != question.choices.size() || is_generation != question.choices.empty())
      std::abort();
    if (!is_generation && question.gold >= question.choices.size()) std::abort();
    for (const std::string& choice : question.choices)
      if (choice.empty()) std::abort();
    if (is_generation && !data::exactly_matches(question.answer, question.answer)) std::abort();
    if (!data::prompt_of(question, {&question, 1}).ends_with(question.context)) std::abort();
  } catch (const core::Error& error) {
    if (std::string_view(error.what()).find('\n') != std::string_view::npos) std::abort();
  }
  return 0;
}
