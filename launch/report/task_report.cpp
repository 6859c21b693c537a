#include "launch/report/task_report.h"

#include <fmt/format.h>

#include "core/counted.h"
#include "launch/console/progress.h"
#include "launch/report/differences_table.h"

namespace limbeck::launch {

namespace {

using Json = nlohmann::ordered_json;

Json answer_json(const data::Question& question, const Answer& answer, const std::vector<TaskFigure>& figures,
                 std::size_t i) {
  Json json = {{"question", question.place}};
  if (answer.scores.empty()) {
    json["text"] = answer.generated;
  } else {
    json["log_likelihoods"] = Json::array();
    json["greedy"] = Json::array();
    for (const Score& score : answer.scores) {
      json["log_likelihoods"].push_back(score.log_likelihood);
      json["greedy"].push_back(score.is_greedy);
    }
    if (question.choices.size() > 1) json["gold"] = question.gold;
  }
  for (const TaskFigure& figure : figures)
    if (!figure.is_perplexity) json[figure.name] = figure.values[i];
  return json;
}

Json task_json(const Task& task, const TaskResult& result) {
  Json json = {{"task", data::name_of(task.kind)}, {"file", task.file}, {"shots", task.shots}};
  if (task.shots > 0) json["examples"] = task.examples_file;
  json["questions"] = task.questions.size();
  json["figures"] = Json::object();
  for (const TaskFigure& figure : result.figures) {
    json["figures"][figure.name] = figure.value();
    if (const auto error = figure.standard_error()) json["figures"][figure.name + "_stderr"] = *error;
  }
  json["answers"] = Json::array();
  for (std::size_t i = 0; i < task.questions.size(); ++i)
    json["answers"].push_back(answer_json(task.questions[i], result.answers[i], result.figures, i));
  return json;
}

}  // namespace

std::string to_text(const TaskReport& report) {
  std::string text;
  for (std::size_t t = 0; t < report.tasks.size(); ++t) {
    const Task& task = report.tasks[t];
    text += fmt::format("{}{}: {}\n", t > 0 ? "\n" : "", task.name(),
                        core::counted(std::ssize(task.questions), "question"));
    for (const TaskFigure& figure : report.results[t].figures) {
      const auto error = figure.standard_error();
      text += fmt::format("  {:<22}{:>12}{}\n", figure.name,
                          figure.is_perplexity ? fmt::format("{:.5g}", figure.value()) : fixed(figure.value(), 4),
                          error ? fmt::format("  ± {}", fixed(*error, 4)) : "");
    }
    if (!report.against.empty()) text += differences_text(report.against, "questions", report.differences[t]);
  }
  return text;
}

Json to_json(const TaskReport& report) {
  Json json = {{"model", report.model}};
  if (report.step) json["step"] = *report.step;
  json["tasks"] = Json::array();
  for (std::size_t t = 0; t < report.tasks.size(); ++t) {
    Json task = task_json(report.tasks[t], report.results[t]);
    if (!report.against.empty()) task["against"] = differences_json(report.against, report.differences[t]);
    json["tasks"].push_back(std::move(task));
  }
  return json;
}

}  // namespace limbeck::launch
