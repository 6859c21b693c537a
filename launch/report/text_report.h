// What `limbeck eval MODEL --text` says: a row a document, and one of all.
//
//     write_result(options.json ? to_json(report).dump(1) + "\n" : to_text(report));
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "launch/run/paired_bootstrap.h"
#include "launch/run/text_evaluation.h"

namespace limbeck::launch {

struct TextReport {
  std::string model;
  std::optional<std::int64_t> step;  // of a checkpoint
  std::string teacher;               // empty: none
  WindowOptions windows;
  std::vector<std::string> names;  // of the documents
  TextFigures figures;
  std::string against = {};                                 // another model; empty: none
  std::vector<FigureDifference> differences = {};           // from it
  std::optional<std::vector<std::size_t>> trained_on = {};  // documents of the run's training text; nothing: not known
};

/// Long lists of documents are shortened to their beginning.
std::string to_text(const TextReport& report);
/// One object: "model", "step", "teacher", "window", "stride", "documents" (each "name", "in_training_text" where it is
/// known, and as evaluation_to_json), "in_training_text" (how many), "all", with experts "routing": means over
/// "layers", an object for each; "against" as differences_json has it. What was not measured is not there.
nlohmann::ordered_json to_json(const TextReport& report);

/// Rows of figures under names, for a terminal: tokens, bytes, ce, perplexity, bits/byte, with a teacher KL, top-1
/// and sum min, and of pairs of responses the share that is right and the margin. What is not known is "-".
std::string figures_table(const NamedEvaluations& rows);

}  // namespace limbeck::launch
