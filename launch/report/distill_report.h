// What a run tells at its end: the model before and after, on the same held-out sample and evaluation sets.
//
//     DistillReport report{...};
//     write_result(to_text(report));
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "launch/run/best_evaluation.h"
#include "launch/run/evaluation.h"
#include "launch/run/student_start.h"
#include "launch/run/throughput.h"

namespace limbeck::launch {

/// What is known before the first step; kept in the run directory, so that a resumed run can compare with it. What was
/// not measured (the unigram model and the continuations, without a teacher) is not in the file.
struct DistillStart {
  Evaluation student;
  Evaluation unigram;
  NamedEvaluations sets = {};  // of the student
  std::string teacher_text;    // continuations of the config's prompt
  std::string student_text;
  StudentStart cut = {};     // how the student was cut from its teacher; nothing in it where it was not
  std::string teacher = {};  // its fingerprint (model_fingerprint.h); empty: not known
};

/// What was found after the last step; kept in the run directory too. What was not measured is not in the file.
/// Why a run has ended: it has done train.steps, train.stop_after_evaluations_without_gain, or --steps of this start.
enum class EndedBy : std::uint8_t { AllSteps, NoGain, StepsOfStart };

/// As end.json has it: "train.steps", "train.stop_after_evaluations_without_gain", "--steps".
const char* name_of(EndedBy why);
std::optional<EndedBy> ended_by_from(std::string_view name);

struct RunEnd {
  std::int64_t step = 0;
  EndedBy ended_by = EndedBy::AllSteps;
  Evaluation student;  // of no tokens where nothing was held out
  std::string student_text;
  NamedEvaluations sets = {};
  std::optional<BestEvaluation> best = std::nullopt;  // by train.keep_best
};

struct DistillReport {
  DistillStart start;
  Evaluation student;
  std::string student_text;
  NamedEvaluations sets = {};  // after
  std::string prompt;
  Throughput throughput;
  std::int64_t peak_bytes_a_rank = 0;  // the most of any rank
  std::int64_t num_ranks = 1;
  std::filesystem::path checkpoint;
  std::filesystem::path run;
  std::optional<BestEvaluation> best = std::nullopt;
  std::string program = "limbeck";  // as it was started
};

/// How a student was cut from its teacher, and how far from it that is, a line each.
std::vector<std::string> to_lines(const StudentStart& start);

/// Into start.json, beside what else that holds (run_facts.h).
void write_start(const std::filesystem::path& run, const DistillStart& start);
/// Throws, naming the file, where the run directory has none or it is damaged.
DistillStart read_start(const std::filesystem::path& run);
/// As JSON, and back; `where` is named where it cannot be read.
std::string to_text(const DistillStart& start);
DistillStart start_from_text(const std::string& text, const std::string& where);

/// As end.json.
void write_end(const std::filesystem::path& run, const RunEnd& end);

/// The table, the figures of the run, the continuations, where the student lies and what to try next.
std::string to_text(const DistillReport& report);
/// A prompt and how it goes on; nothing without a prompt.
std::string continuation_text(const std::string& prompt, const std::string& continuation);
/// The rows of evaluations of one sample, a column each.
std::string to_text(const NamedEvaluations& columns);
/// The evaluation sets of `after`, each with a row before where there is one; nothing without sets.
std::string sets_text(const NamedEvaluations& before, const NamedEvaluations& after);
/// "The best by ce: 2.1034 at step 40: RUN/checkpoints/best"; nothing where there is none.
std::string best_text(const std::optional<BestEvaluation>& best, const std::filesystem::path& run);

}  // namespace limbeck::launch
