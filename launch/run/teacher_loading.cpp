#include "launch/run/teacher_loading.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "core/counted.h"
#include "data/models/quantised_reader.h"
#include "launch/console/progress.h"
#include "launch/run/available_memory.h"
#include "launch/run/clock.h"
#include "launch/run/model_fingerprint.h"
#include "launch/run/quantised_weights.h"
#include "launch/run/threads.h"

namespace limbeck::launch {

LoadedTeacher load_teacher(Rank& rank, const RunConfig& config, const ModelSource& source,
                           const nn::VocabularyRows& tensors, const Log& log) {
  const PrecisionConfig& precision = config.precision;
  nn::ModelConfig architecture = source.config;
  architecture.vocabulary = tensors.tensors().at("embed.weight").shape[0];
  architecture.head_bias = architecture.head_bias || tensors.tensors().contains("head.bias");
  const bool is_quantised = precision.quantised_teacher != QuantisedWeights::None;
  std::optional<data::QuantisedReader> blocks;
  if (is_quantised)
    blocks.emplace(tensors, source.config, name_of(precision.quantised_teacher).dtype,
                   threads_of_rank(config.train.threads), "precision.quantised_teacher");
  nn::ModelOptions options = rank.frozen_copy(precision.frozen_storage);
  if (precision.sharded_teacher) options = rank.frozen_shard(precision.frozen_storage);
  options.as_kept = precision.mapped_teacher || is_quantised;
  options.compute = precision.bfloat16_teacher ? core::DType::BF16 : precision.compute;
  options.residual = core::sum_dtype(*options.compute);
  if (!rank.is_last_stage()) {  // its hidden states are wanted where the student's head is
    options.chunks.emplace(1);
    options.with_embedding = options.with_head = false;
  }
  LoadedTeacher teacher{
      .model = std::make_unique<nn::Transformer>(architecture, options), .streamed = nullptr, .fingerprint = {}};
  const std::int64_t available = available_memory();
  auto since = Clock::now();
  double seconds = 0;
  while_others_hear(rank, [&] {
    if (blocks)
      teacher.model->load(*blocks);
    else
      teacher.model->load(tensors);
    seconds = lap(since);
    teacher.fingerprint = model_fingerprint(*source.reader, source.config);
    if (is_quantised) teacher.fingerprint = quantised_fingerprint(teacher.fingerprint, precision.quantised_teacher);
  });
  if (is_quantised) {
    std::int64_t bytes = 0;
    for (const core::Parameter* p : teacher.model->parameters()) bytes += p->value.bytes();
    log->info("the teacher, {}, is quantised as {}: {:.2f} MiB a rank", source.path.string(),
              name_of(precision.quantised_teacher).name, static_cast<double>(bytes) / (1 << 20));
  }
  if (!precision.mapped_teacher) return teacher;
  auto layers = std::make_unique<MappedLayers>(*teacher.model);
  if (available == 0 || layers->bytes() <= available) return teacher;
  const auto gib = [](std::int64_t bytes) { return static_cast<double>(bytes) / (1 << 30); };
  log->warn(
      "the teacher's {:.2f} GiB are more than the {:.2f} GiB of memory that are available: each pass reads them from "
      "{}, which took {:.1f} s now ({:.2f} GiB/s): {} for the run's {}, beside what is computed",
      gib(layers->bytes()), gib(available), source.path.string(), seconds,
      gib(layers->bytes()) / std::max(seconds, 1e-9),
      duration_text(seconds * static_cast<double>(config.train.steps * config.batch.micro_batches)),
      core::counted(config.train.steps, "step"));
  teacher.streamed = std::move(layers);
  return teacher;
}

}  // namespace limbeck::launch
