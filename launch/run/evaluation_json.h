// The figures of evaluations as JSON, by the same names in metrics.jsonl (there behind "eval_"), start.json, end.json
// and `limbeck eval --json`. Only what was measured is there.
//
//     line.update(to_json(measurement));                          // of metrics.jsonl
//     json["student"] = evaluation_to_json(measurement.held_out);
//     const Json start = with_present_names(parsed);              // what any Limbeck wrote
#pragma once

#include <nlohmann/json.hpp>

#include "launch/run/evaluation.h"

namespace limbeck::launch {

/// The fields of metrics.jsonl at an evaluation: eval_NAME for each number of evaluation_to_json but the places of the
/// load; eval_sets, an object by name.
nlohmann::ordered_json to_json(const Measurement& measurement);

/// "preference_accuracy", "preference_margin", "chosen_reward", "rejected_reward".
nlohmann::ordered_json to_json(const PreferenceResult& preference);
/// "spans", "span_kl", "span_share", "span_bits_per_byte", "teacher_bits_per_byte".
nlohmann::ordered_json to_json(const SpanResult& spans);
/// "uld_pairs", "uld", "uld_share".
nlohmann::ordered_json to_json(const SortedResult& sorted);

/// "tokens"; "bytes" where they are known; "ce", "perplexity", "bits_per_byte"; of a text
/// "byte_perplexity" and "document_perplexity"; "ece"; with a teacher "teacher_ce", "kl", "kl_median", "kl_p90",
/// "kl_p99", "top1_agreement", "sum_min", "teacher_ece", of a part of the teacher's distributions by the names that
/// known_teacher.h has for it; of pairs "preference_loss" and those above, by a reward head
/// these alone; over a bridge the spans' above, and by ULD those; where experts choose tokens in training "choice_kl"
/// and "choice_ce" (ChoiceResult); with experts "load_entropy", "load_worst_entropy", "starved_experts", and of which
/// they are: "experts" (how many), "load_worst_layer", "starved_layers".
nlohmann::ordered_json evaluation_to_json(const Evaluation& evaluation);
/// And back. Throws nlohmann's exceptions where it is something else.
Evaluation evaluation_from_json(const nlohmann::ordered_json& json);
/// Those of the experts alone.
nlohmann::ordered_json load_to_json(const ModelLoad& load);

/// By name, as evaluation_to_json; and back.
nlohmann::ordered_json sets_to_json(const NamedEvaluations& sets);
NamedEvaluations sets_from_json(const nlohmann::ordered_json& json);

/// A start.json or end.json whose evaluations, "student" and "unigram", have the names above. Runs of the first
/// versions wrote "cross_entropy", "teacher_cross_entropy", "agreement" and an object "load" for them.
nlohmann::ordered_json with_present_names(nlohmann::ordered_json record);

}  // namespace limbeck::launch
