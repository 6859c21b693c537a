#include "launch/run/run_models.h"

#include <utility>

#include "launch/run/student_start.h"

namespace limbeck::launch {
namespace {

/// With layers that are not trained.
nn::ModelConfig whole_architecture(const RunConfig& config, const ModelSource& student, const ModelSource& teacher,
                                   std::int64_t usual_vocabulary) {
  if (!config.student_init) {
    if (student.reader) return student.config;
    nn::ModelConfig architecture = config.model->architecture;
    if (architecture.vocabulary == 0) architecture.vocabulary = usual_vocabulary;
    return architecture;
  }
  nn::ModelConfig from = teacher.config;
  from.vocabulary = usual_vocabulary;
  return started_config(*config.student_init, from, teacher.path.string());
}

}  // namespace

nn::ModelConfig student_architecture(const RunConfig& config, const ModelSource& student, const ModelSource& teacher,
                                     std::int64_t usual_vocabulary) {
  nn::ModelConfig architecture = whole_architecture(config, student, teacher, usual_vocabulary);
  if (config.objective.predict_weight == 0 || config.objective.preference) architecture.num_predict_layers = 0;
  if (architecture.reward_head && !config.objective.reward)
    core::fail_usage("{} has a reward head, expected objective.reward to train it",
                     student.reader ? student.path.string() : "model");
  return config.objective.reward ? nn::with_reward_head(architecture) : architecture;
}

void check_reads(const RunConfig& config, std::int64_t num_tokens, const nn::ModelConfig& student,
                 const nn::ModelConfig* teacher) {
  const std::string trained = config.teacher ? "the student" : "the model";
  const auto check_positions = [&](const nn::ModelConfig& model, const std::string& whose) {
    if (config.data.sequence_length > model.max_positions)
      core::fail_usage("data.sequence_length is {}, expected at most {}'s {} positions", config.data.sequence_length,
                       whose, model.max_positions);
  };
  check_positions(student, trained);
  if (teacher != nullptr) check_positions(*teacher, "the teacher");
  if (num_tokens > student.vocabulary)
    core::fail_usage("the tokenizer has {} tokens, expected at most {}'s vocabulary of {}", num_tokens, trained,
                     student.vocabulary);
}

nn::ModelOptions with_precision(nn::ModelOptions options, const PrecisionConfig& precision) {
  options.dtype = precision.bfloat16_weights ? core::DType::BF16 : precision.master;
  options.compute = precision.compute;
  options.residual = precision.bfloat16_residual ? core::DType::BF16 : precision.master;
  options.fp8_products = precision.fp8_products;
  return options;
}

nn::ModelOptions student_options(const Rank& rank, const RunConfig& config) {
  nn::ModelOptions options = with_precision(rank.sharded(config.precision.master), config.precision);
  options.with_predict = true;
  options.filled_later = config.parallel.shard == Shard::Parameters && !config.adapters;
  return options;
}

nn::ModelOptions teacher_options(const Rank& rank, const PrecisionConfig& precision) {
  nn::ModelOptions options = precision.sharded_teacher ? rank.frozen_shard(precision.frozen_storage)
                                                       : rank.frozen_copy(precision.frozen_storage);
  options.as_kept = precision.mapped_teacher || precision.quantised_teacher != QuantisedWeights::None;
  options.offload_layers = precision.offload_teacher && rank.memory()->has_queue();
  options.compute = teacher_compute(precision);
  options.residual = core::sum_dtype(*options.compute);
  return options;
}

nn::ModelOptions untrained_options(const Rank& rank, const PrecisionConfig& precision) {
  const core::DType dtype = teacher_compute(precision);
  nn::ModelOptions options = precision.sharded_teacher ? rank.frozen_shard(dtype) : rank.frozen_copy(dtype);
  options.offload_layers = teacher_options(rank, precision).offload_layers;
  return beside_head(rank, std::move(options));
}

core::DType teacher_compute(const PrecisionConfig& precision) {
  if (precision.float32_teacher) return core::DType::F32;
  return precision.bfloat16_teacher ? core::DType::BF16 : precision.compute;
}

nn::ModelOptions beside_head(const Rank& rank, nn::ModelOptions options) {
  if (rank.is_last_stage()) return options;
  options.chunks.emplace(1);
  options.with_embedding = options.with_head = false;
  return options;
}

nn::AdapterOptions adapter_options(const AdaptersConfig& config) {
  nn::AdapterOptions options{.rank = config.rank, .alpha = config.alpha, .targets = config.targets};
  if (options.targets.empty()) options.targets = {"*.attention.*"};
  return options;
}

}  // namespace limbeck::launch
