#include "launch/plan/planned_models.h"

#include <utility>

#include "launch/run/matched_rows.h"
#include "launch/run/model_source.h"
#include "launch/run/run_config.h"
#include "launch/run/run_models.h"

namespace limbeck::launch {

int num_students(const RunConfig& config, int num_ranks) {
  if (config.parallel.teacher_ranks >= num_ranks)
    core::fail_usage("parallel.teacher_ranks is {}, expected fewer than all {} ranks", config.parallel.teacher_ranks,
                     num_ranks);
  return num_ranks - static_cast<int>(config.parallel.teacher_ranks);
}

const char* not_planned(const RunConfig& config) {
  for (const auto& [field, is_given] :
       {std::pair("teacher.others", config.teacher && !config.teacher->others.empty()),
        {"objective.bridge", config.objective.bridge != Bridge::None},
        {"student_init.vocabulary_count", config.student_init && config.student_init->vocabulary_count > 0},
        {"objective.hidden_states.projector with teacher.cache",
         config.teacher && !config.teacher->cache.empty() && config.objective.hidden_states.projector}})
    if (is_given) return field;
  return nullptr;
}

PlannedModels planned_models(const RunConfig& config, const Log& log, const char* who) {
  if (const char* field = not_planned(config))
    core::fail_usage("{}: {} is given, which is not planned, expected a config without it", who, field);
  const RunConfig found = with_paths_found(config);
  const auto opened = [](const std::string& path) {
    return path.empty() ? ModelSource() : open_model(path, data::Checkpoint::Verify::Sizes);
  };
  const ModelSource teacher = opened(found.teacher ? found.teacher->source : ""),
                    student = opened(found.model ? found.model->source : "");
  const std::string& name = config.data.tokenizer;
  std::shared_ptr<const data::Tokenizer> tokenizer;
  if (name == "teacher" || name == "model") {
    const ModelSource& source = name == "teacher" && teacher.reader ? teacher : student;
    if (!source.reader)
      core::fail_usage("data.tokenizer is \"{}\", but the config names no {}", name,
                       name == "model" ? "model.source" : "teacher.source and no model.source");
    source.require_tokenizer();
    tokenizer = source.tokenizer;
  } else {
    tokenizer = open_tokenizer(found.data.tokenizer, log);
  }
  PlannedModels models{.student = {}, .tokens = tokenizer->vocabulary_size(), .tokenizer = tokenizer};
  std::optional<nn::TokenRows> rows;
  if (teacher.reader)
    rows = matched_rows(teacher, *tokenizer, "data.tokenizer is another tokenizer than the teacher's", log);
  check_teacher_rows(config, rows);
  models.student = student_architecture(config, student, teacher,
                                        teacher.reader && !rows ? teacher.config.vocabulary : models.tokens);
  nn::validate(models.student, "model");
  check_reads(config, models.tokens, models.student, teacher.reader ? &teacher.config : nullptr);
  if (teacher.reader && config.teacher->cache.empty()) {
    models.teacher = teacher.config;
    models.teacher_vocabulary = teacher.config.vocabulary;
    models.teacher->vocabulary = models.student.vocabulary;  // logits stand beside logits
  }
  return models;
}

}  // namespace limbeck::launch
