// All that a run directory says of its run: what the report, `limbeck compare` and `limbeck inspect` show.
//
//     const RunResults run = read_run(RunDirectory("runs/first"));
//     if (run.after) run.after->figure("ce");           // nothing where it was not measured
//
// Figures have the names of metrics.jsonl without "eval_": ce, teacher_ce, perplexity, bits_per_byte, ece, kl,
// kl_median, kl_p90, kl_p99, top1_agreement, sum_min, teacher_ece, tokens, bytes; load_entropy, load_worst_entropy,
// starved_experts; of the records also experts and load_worst_layer.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "launch/config/config.h"
#include "launch/run/run_directory.h"
#include "launch/run/run_facts.h"
#include "launch/run/run_record.h"

namespace limbeck::launch {

using Figures = std::map<std::string, double>;
std::optional<double> figure_of(const Figures& figures, const std::string& name);

/// Of a model on the held-out sample, and on the sets that the config names.
struct Measured {
  Figures figures;
  std::map<std::string, Figures> sets = {};
  std::optional<double> figure(const std::string& name) const { return figure_of(figures, name); }
  bool has_teacher() const { return figures.contains("teacher_ce"); }
};

/// The evaluation whose checkpoint was kept as the best.
struct BestStep {
  std::string figure;
  double value = 0;
  std::int64_t step = 0;
};

/// Finished: all steps are done; StoppedEarly: train.stop_after_evaluations_without_gain ended it; Paused:
/// --steps did; Stopped: it was cut off, or nobody knows why it ended.
enum class RunState : std::uint8_t { Finished, StoppedEarly, Paused, Stopped, Running };

struct RunResults {
  std::string name;  // of the folder
  std::filesystem::path path;
  std::string config_text;
  RunConfig config;
  RunRecord record;
  RunFacts facts;
  std::optional<Measured> before;   // the first step
  std::optional<Measured> unigram;  // of a distillation
  std::optional<Measured> after;    // the last that is known
  std::int64_t after_step = 0;
  std::optional<BestStep> best;  // by train.keep_best
  RunState state = RunState::Stopped;
  std::string teacher_text;  // continuations of the config's prompt
  std::string text_before;
  std::string text_after;  // of a run that has an end

  /// Of the evaluation sets, in the order in which they are measured: a mixture's sources, then those of the config.
  std::vector<std::string> set_names() const;
  /// Median; nothing without a step.
  std::optional<double> tokens_per_s() const;
  /// Seconds in steps.
  std::optional<double> training_seconds() const;
  /// Seconds from each start of the program to its last step. Of a run whose starts are not known, from the first step
  /// to the last, whatever lay between.
  std::optional<double> wall_seconds() const;
  std::optional<double> peak_bytes() const;  // of the first rank
};

/// That of the folder; it is there.
std::string name_of_run(const std::filesystem::path& directory);

/// Throws, naming file and line or member, where one of its files is damaged, and a UsageError where the folder is no
/// run's. A run without a step yet has an empty record.
RunResults read_run(const RunDirectory& directory);
/// The same with a reader of its metrics, which goes on where it was.
RunResults read_run(const RunDirectory& directory, RecordReader& record);

/// "preferences", "rewards", "distillation" or "training".
const char* kind_of(const RunResults& run);
/// "finished", "stopped early", "paused", "stopped" or "running".
const char* name_of(RunState state);
/// "finished", "stopped early at step 60 (patience)", "60 of 200 steps, paused by --steps".
std::string state_text(const RunResults& run);
double median(std::vector<double> values);

}  // namespace limbeck::launch
