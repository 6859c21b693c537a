#include "launch/commands/what_runs.h"

#include <string>
#include <utility>

#include "core/counted.h"
#include "core/nn/model_config.h"
#include "data/models/families/family.h"
#include "kernels/fp8.h"
#include "launch/console/numbers.h"
#include "launch/run/training_step.h"

namespace limbeck::launch {
namespace {

std::string how_fp8_is_multiplied(const core::Device& device) {
  const bool is_faster = std::visit([](const auto& d) { return kernels::has_fp8_products(d); }, device);
  return is_faster
             ? "precision.fp8_products: by the GPU's tensor cores"
             : "precision.fp8_products: FP8's rounding with float32 arithmetic, slower than bfloat16: only GPUs of "
               "compute capability 9.0 (H100, H200) multiply such FP8";
}

const char* why_none_predicts(const RunConfig& config) {
  if (config.objective.predict_weight == 0) return "objective.predict_weight is 0";
  const StudentInitConfig& init = *config.student_init;
  return init.experts || init.dense || init.width ? "they are cut with the layers alone"
                                                  : "the last layer is of another kind than theirs";
}

/// What a layout without stages does not read.
void warn_of_stages(const ParallelConfig& c, const Log& log) {
  for (const auto& [field, is_given] : {std::pair("schedule", c.schedule != PipelineKind::OneFOneB),
                                        {"chunks", c.chunks > 1},
                                        {"stages", !c.stages.empty()}})
    if (is_given) log->warn("parallel.{} is given, and changes nothing: parallel.layout has no pp", field);
}

}  // namespace

const char* trained_name(const Session& session) {
  return session.distils() && !session.config.objective.preference ? "student" : "model";
}

std::optional<nn::ModelConfig> named_teacher(const Session& session) {
  if (session.bridge) return session.bridge->teacher().config();
  return session.teacher_source().reader ? session.teacher_config : std::nullopt;
}

void say_what_runs(const Log& log, const Session& session) {
  const auto in_short = [](std::int64_t n) { return short_count(static_cast<double>(n)); };
  const nn::ParameterCount student = nn::count_parameters(session.student->config());
  if (const auto teacher = named_teacher(session))
    log->info("{}: {} parameters, {}", session.config.objective.preference ? "reference" : "teacher",
              in_short(nn::count_parameters(*teacher).total), core::counted(teacher->num_layers, "layer"));
  log->info("{}: {} parameters, {} active, {}", trained_name(session), in_short(student.total),
            in_short(student.active), core::counted(session.student->config().num_layers, "layer"));
  if (session.config.routing.expert_choice)
    log->warn(
        "routing.expert_choice: experts choose tokens while training, by later ones too; what is measured and "
        "generated is of tokens that choose {} each, and evaluations of the held-out text say how far that is",
        core::counted(session.student->config().moe.experts_per_token, "expert"));
  const std::int64_t further = session.student->config().num_predict_layers;
  if (further > 0)
    log->info("with {} that {} further tokens: objective.predict_weight is {}", core::counted(further, "layer"),
              further == 1 ? "predicts" : "predict", session.config.objective.predict_weight);
  else if (session.config.student_init && session.teacher->config().num_predict_layers > 0)
    log->info("without the teacher's layers that predict further tokens: {}", why_none_predicts(session.config));
  if (session.rank.mesh().pp().size() > 1)
    for (const std::string& line : to_lines(session.pipeline)) log->info("{}", line);
  else
    warn_of_stages(session.config.parallel, log);
  if (session.config.precision.fp8_products) log->info("{}", how_fp8_is_multiplied(session.rank.memory()->device()));
  if (session.config.train.cuda_graph)
    log->info("train.cuda_graph: {}", records_steps(session.config, session.rank)
                                          ? "the third step is recorded, and later ones are queued by one call each"
                                          : "a CPU has no queue of work to record: it changes nothing");
  if (session.text->has_pairs())
    log->info("text: {}", core::counted(session.text->num_train_documents() / 2, "training pair"));
  else
    log->info("text: {} in {}", core::counted(session.text->tokens_per_epoch(), "training token"),
              core::counted(session.text->num_train_documents(), "document"));
  const nn::ModelConfig& model = session.student->config();
  if (const auto beyond = data::beyond_all_families(model))
    log->warn("no export format holds this model: convert will refuse it as a Hugging Face directory and as GGUF: {}",
              *beyond);
  else if (const auto more = data::beyond_all_families(model, data::beyond_gguf))
    log->warn("convert writes this model as a Hugging Face directory alone: of GGUF it is beyond what is written: {}",
              *more);
}

}  // namespace limbeck::launch
