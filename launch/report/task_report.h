// What `limbeck eval MODEL --task` says: the figures of each task; with --json also what was answered to each question.
//
//     write_result(options.json ? to_json(report).dump(1) + "\n" : to_text(report));
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "launch/run/paired_bootstrap.h"
#include "launch/run/task_evaluation.h"

namespace limbeck::launch {

struct TaskReport {
  std::string model;
  std::optional<std::int64_t> step;  // of a checkpoint
  std::vector<Task> tasks;
  std::vector<TaskResult> results;                              // of each
  std::string against = {};                                     // another model; empty: none
  std::vector<std::vector<FigureDifference>> differences = {};  // from it, of each task
};

std::string to_text(const TaskReport& report);
/// One object: "model", "step", "tasks": each "task", "file", "shots", "examples", "questions" (how many), "figures"
/// (by name; NAME_stderr where it is known), "answers": each "question" (FILE:LINE), "log_likelihoods" and "greedy" of
/// the choices, "gold" or "text", and the values of the figures; "against" as differences_json has it.
nlohmann::ordered_json to_json(const TaskReport& report);

}  // namespace limbeck::launch
