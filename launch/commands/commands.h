// What each command does. Every function returns the exit code, 0 or (train, distill, launch, tokenize and convert,
// where a signal stopped them and they saved) 3, or throws: an Error ends with 1, a UsageError with 2.
#pragma once

#include "launch/commands/command_line.h"
#include "launch/config/config.h"

namespace limbeck::launch {

/// The config that a training works by.
RunConfig config_of(const TrainOptions& options);
/// Of the baseline of such a distillation: the same student by cross-entropy alone, in a folder of the run's.
RunConfig baseline_of(RunConfig config);

int run_train(const TrainOptions& options);
int run_distill(const TrainOptions& options);
int run_cache_teacher(const CacheTeacherOptions& options);
int run_eval(const EvalOptions& options);
int run_generate(const GenerateOptions& options);
int run_convert(const ConvertOptions& options);
int run_inspect(const InspectOptions& options);
int run_tokenize(const TokenizeOptions& options);
int run_verify(const VerifyOptions& options);
int run_plan(const PlanOptions& options);
int run_report(const ReportOptions& options);
int run_watch(const WatchOptions& options);
int run_compare(const CompareOptions& options);
int run_launch(const LaunchOptions& options);

}  // namespace limbeck::launch
