#include "launch/run/teacher_loading.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "core/counted.h"
#include "data/models/quantised_reader.h"
#include "launch/console/progress.h"
#include "launch/run/available_memory.h"
#include "launch/run/clock.h"
#include "launch/run/model_fingerprint.h"
#include "launch/run/quantised_weights.h"
#include "launch/run/threads.h"
#include "parallel/comm/engine.h"

namespace limbeck::launch {

nn::ModelConfig teacher_architecture(const ModelSource& source, const nn::VocabularyRows& tensors) {
  nn::ModelConfig architecture = source.config;
  architecture.vocabulary = tensors.tensors().at("embed.weight").shape[0];
  architecture.head_bias = architecture.head_bias || tensors.tensors().contains("head.bias");
  return architecture;
}

std::string fingerprint_of_teacher(const RunConfig& config, const ModelSource& source) {
  const QuantisedWeights as = config.precision.quantised_teacher;
  const std::string fingerprint = model_fingerprint(*source.reader, source.config);
  return as == QuantisedWeights::None ? fingerprint : quantised_fingerprint(fingerprint, as);
}

std::unique_ptr<nn::Transformer> read_teacher(const RunConfig& config, const ModelSource& source,
                                              const nn::VocabularyRows& tensors, const nn::ModelOptions& options) {
  auto model = std::make_unique<nn::Transformer>(teacher_architecture(source, tensors), options);
  const QuantisedWeights as = config.precision.quantised_teacher;
  if (as == QuantisedWeights::None)
    model->load(tensors);
  else
    model->load(data::QuantisedReader(tensors, source.config, name_of(as).dtype, threads_of_rank(config.train.threads),
                                      "precision.quantised_teacher"));
  return model;
}

namespace {

/// Collective: each number of the rank that has the most of it; beside a pipeline's head the first rank has no teacher.
std::vector<std::int64_t> greatest(Rank& rank, std::vector<std::int64_t> numbers) {
  stop_is_agreed(rank, {numbers});  // whether to stop is asked again where a run can
  return numbers;
}

}  // namespace

LoadedTeacher load_teacher(Rank& rank, const RunConfig& config, const ModelSource& source,
                           const nn::VocabularyRows& tensors, const nn::ModelOptions& options, std::int64_t passes,
                           const Log& log) {
  const PrecisionConfig& precision = config.precision;
  LoadedTeacher teacher;
  teacher.is_brought = options.offload_layers;
  const std::int64_t available = available_memory();
  auto since = Clock::now();
  double seconds = 0;
  while_others_hear(rank, [&] {
    teacher.model = read_teacher(config, source, tensors, options);
    seconds = lap(since);
    teacher.fingerprint = fingerprint_of_teacher(config, source);
  });
  if (precision.offload_teacher && !rank.memory()->has_queue())
    log->info("precision.offload_teacher: {} is in this machine's memory anyway, for the run is on CPUs",
              source.path.string());
  if (precision.quantised_teacher != QuantisedWeights::None) {
    std::int64_t bytes = 0;
    for (const core::Parameter* p : teacher.model->parameters()) bytes += p->value.bytes();
    bytes = greatest(rank, {bytes})[0];
    log->info("the teacher, {}, is quantised as {}: {:.2f} MiB a rank", source.path.string(),
              name_of(precision.quantised_teacher).name, static_cast<double>(bytes) / (1 << 20));
  }
  if (!precision.mapped_teacher) return teacher;
  auto layers = std::make_unique<MappedLayers>(*teacher.model, &rank.mesh().world().engine().file_waits());
  const bool is_streamed = available > 0 && layers->bytes() > available;
  // The first rank's words are of the one that streams the most.
  const auto said = greatest(rank, {is_streamed ? layers->bytes() : 0, std::llround(seconds * 1000)});
  if (is_streamed) teacher.streamed = std::move(layers);
  if (said[0] == 0) return teacher;
  teacher.is_brought = true;
  seconds = static_cast<double>(said[1]) / 1000;
  const auto gib = [](std::int64_t bytes) { return static_cast<double>(bytes) / (1 << 30); };
  log->warn(
      "the teacher's {:.2f} GiB are more than the {:.2f} GiB of memory that are available: each pass reads them from "
      "{}, which took {:.1f} s now ({:.2f} GiB/s){}",
      gib(said[0]), gib(available), source.path.string(), seconds, gib(said[0]) / std::max(seconds, 1e-9),
      passes == 0 ? ""
                  : fmt::format(": {} for the run's {}, beside what is computed",
                                duration_text(seconds * static_cast<double>(config.train.steps * passes)),
                                core::counted(config.train.steps, "step")));
  return teacher;
}

GivenRows rows_given(const LoadedTeacher& teacher, const nn::Batch& batch, const std::vector<std::int64_t>& layers,
                     core::FiniteWatch* watch) {
  GivenRows rows;
  core::Tape off(core::Tape::Mode::Off);
  if (watch != nullptr) off.set_watch(watch);
  nn::Pass pass = teacher.model->pass(batch);
  pass.gives = [&](std::int64_t layer, const core::Var& given) {
    if (std::ranges::count(layers, layer) > 0) rows.layers.emplace(layer, given.value);
  };
  if (teacher.streamed) teacher.streamed->watch(pass);
  rows.hidden = teacher.model->forward(off, pass).hidden.value;
  return rows;
}

}  // namespace limbeck::launch
