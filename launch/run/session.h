// What a run works with on a rank: tokenizer, text, teacher and student, made from its config.
//
//     Session session(rank, config, log);
//     session.start_student();                       // random, from a file, or from the teacher's layers
//     session.student->load(checkpoint);             // or on from a checkpoint
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/nn/adapters.h"
#include "core/nn/student/vocabulary_rows.h"
#include "core/nn/transformer.h"
#include "data/text/mixture.h"
#include "data/tokenizers/tokenizer.h"
#include "launch/config/config.h"
#include "launch/console/log.h"
#include "launch/run/batch.h"
#include "launch/run/cached_teacher.h"
#include "launch/run/evaluation.h"
#include "launch/run/model_source.h"
#include "launch/run/other_teachers.h"
#include "launch/run/pipeline.h"
#include "launch/run/rank.h"
#include "launch/run/relaid_teacher.h"
#include "launch/run/student_start.h"
#include "launch/run/teacher_loading.h"
#include "launch/run/teacher_ranks.h"
#include "launch/run/tokenizer_bridge.h"

namespace limbeck::launch {

/// What a student's adapters are of, where that is a model with a file of its own.
struct BaseModel {
  std::string path = {};  // absolute; empty: checkpoints hold the base
  std::string fingerprint = {};
};

class Session {
 public:
  /// Collective: who hears of the student, and of the teacher that runs beside it (or null), before either is made.
  using BeforeModels =
      std::function<void(const Session&, const nn::ModelConfig& student, const nn::ModelConfig* teacher)>;

  /// Collective: opens (at first use: makes) the token file and the models, without weights for the student.
  Session(Rank& rank, RunConfig config, const Log& log, const BeforeModels& before_models = {});

  /// Whether the student learns from a teacher, one that runs or its cache.
  bool distils() const { return teacher != nullptr || bridge != nullptr || runs_elsewhere(); }
  /// Whether steps ask a cache, other ranks, or one in another layout in the place of `teacher`.
  bool runs_elsewhere() const {
    return cached_teacher != nullptr || rank.teacher_ranks() != nullptr || relaid_teacher != nullptr;
  }
  /// Whether the text has tokens, by name, that the teacher has not.
  bool teacher_lacks_tokens() const { return teacher_rows_ && !teacher_rows_->pieces.empty(); }
  /// Collective, before the first step: the teacher's memory is given back where neither steps ask it nor, as `is_asked`
  /// says, figures; and that of steps in another layout is read.
  void prepare_teacher(bool is_asked, const Log& log);
  /// Collective: the teacher itself, where the config names it, for what its cache lacks.
  void load_teacher_to_measure(const Log& log);

  /// Collective, before a run learns or is measured: teacher.cache, where the config names one.
  void open_cache(const Log& log);
  /// Likewise: the one that stands in the teacher's place where objective.control says so.
  void make_untrained_teacher();
  /// Collective. Fills the student's weights as the config says. `cut` is then where they come from if they are cut
  /// from the teacher, and `start` what they are, and how far from the teacher.
  void start_student();
  /// Collective. Fills the weights of the student, and of its adapters, from a checkpoint of a run of this config.
  void load_student(const ModelSource& checkpoint);

  /// Collective: how often each of so many tokens, at least the tokenizer's, is in the training text.
  std::vector<std::int64_t> token_counts(std::int64_t vocabulary) const;
  /// What start_student cut from the teacher, as a model to convert.
  ModelSource started_model() const;
  const ModelSource& teacher_source() const { return teacher_source_; }

  /// Throws a UsageError where a token file was made by another tokenizer; says so where that is not known.
  void check_same_ids(const data::TokenFile& file, const Log& log) const;
  /// Throws, naming the teacher, where its loss on the held-out text is not finite, or a bridge to it finds no span.
  void check_teacher(const Evaluation& evaluation) const;
  /// Collective: the fixed sample of the held-out documents; nothing where they do not fill one sequence.
  std::optional<HeldOut> held_out();
  /// What a step runs over: `next_sample` is the position that a checkpoint holds.
  StepText step_text(std::int64_t next_sample) const;

  Rank& rank;
  /// As given, but that teacher.source is the checkpoint itself where it was a run directory, train.steps are there
  /// where tokens or epochs were given, and output.started_in is there.
  RunConfig config;
  RunConfig found;  // the config that was given, its paths as seen from the working directory
  std::shared_ptr<const data::Tokenizer> tokenizer;
  std::unique_ptr<data::Mixture> text;
  /// The first; null without teacher.source, with objective.bridge, and where a cache stands in its place.
  std::unique_ptr<nn::Transformer> teacher;
  std::unique_ptr<OtherTeachers> others;    // beside it; null without teacher.others
  std::unique_ptr<TokenizerBridge> bridge;  // to the teacher then; null without one
  /// The named teacher's; of a cache alone what the hidden states tell that it keeps. Nothing where neither is there.
  std::optional<nn::ModelConfig> teacher_config;
  std::unique_ptr<nn::Transformer> untrained_teacher;  // null without make_untrained_teacher
  std::unique_ptr<MappedLayers> streamed_teacher;      // null where it fits into memory
  Pipeline pipeline;                                   // of the student; of one stage without pp
  std::unique_ptr<nn::Transformer> student;
  std::unique_ptr<nn::Adapters> adapters;  // of the student, which is frozen then; null without config.adapters
  BaseModel base;
  std::unique_ptr<CachedTeacher> cached_teacher;  // that the student learns from; null without teacher.cache
  std::unique_ptr<RemoteTeacher> remote_teacher;  // of the last stage's ranks; null without parallel.teacher_ranks
  std::unique_ptr<RelaidTeacher> relaid_teacher;  // null but for parallel.teacher_layout without those
  std::string text_fingerprint;                   // Mixture::fingerprint, 16 hexadecimal digits
  std::string teacher_fingerprint;                // model_fingerprint, or the cache's; empty without a teacher
  StudentStart start;
  std::shared_ptr<StudentSource> cut;  // null unless the student was cut from the teacher

 private:
  ModelSource open_teacher(const std::filesystem::path& found_there, std::string& named, const Log& log) const;
  std::optional<nn::TokenRows> rows_of(const ModelSource& source, const Log& log) const;
  /// Whether the config names the teacher itself, not its cache alone.
  bool names_teacher() const { return config.teacher && !config.teacher->source.empty(); }
  bool has_bridge() const { return config.objective.bridge != Bridge::None; }
  /// Whether it names one that has the text's tokens.
  bool names_like_teacher() const { return names_teacher() && !has_bridge(); }
  void check_cached_objective() const;
  /// Of a token, of the teachers that run beside the student in each step.
  double forward_flops_of_teachers() const;
  void load_teachers(std::int64_t vocabulary, const Log& log);
  void know_teacher(std::int64_t vocabulary);
  RemoteTeacher::Form form_of_answers() const;
  void reach_remote_teacher(const TeacherRanks& ranks);
  /// Collective: on the stages of a pipeline without a teacher one for a start that is found by running it; else null.
  std::unique_ptr<nn::Transformer> teacher_to_start_by();
  void open_bridge(const Log& log);
  /// How many tokens a student has whose config does not say it.
  std::int64_t usual_vocabulary() const;
  void make_adapters(const core::PlacementRule& place);
  void load_student(const core::StateReader& reader);
  CalibrationText calibration() const;
  Evaluation evaluate_start();
  void choose_tokenizer(const Log& log);
  void cut_vocabulary(const Log& log);
  void check_same_ids(const ModelSource& source, const char* whose, const Log& log) const;
  void open_text(const Log& log);
  void resolve_length(const Log& log);

  ModelSource teacher_source_;
  std::optional<nn::TokenRows> teacher_rows_;            // where its ids are not the text's, or not all stay
  std::unique_ptr<nn::VocabularyRows> teacher_tensors_;  // of the student's vocabulary
  struct OtherSource {
    ModelSource source;
    std::optional<nn::TokenRows> rows = {};
  };
  std::vector<OtherSource> other_sources_;  // of teacher.others
  ModelSource student_source_;              // model.source
};

}  // namespace limbeck::launch
