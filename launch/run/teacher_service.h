// What ranks that hold a teacher alone do in a run (parallel.teacher_ranks): they answer the student's ranks until
// those dismiss them (teacher_ranks.h).
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <vector>

#include "launch/config/config.h"
#include "launch/console/log.h"
#include "launch/run/pipeline.h"
#include "launch/run/rank.h"
#include "launch/run/stages_in_step.h"
#include "launch/run/teacher_loading.h"
#include "launch/run/teacher_ranks.h"

namespace limbeck::launch {

/// What this rank has of a teacher that is kept as `options` say: of several stages its own layers, which are dealt by
/// what they cost; the head costs nothing, for the student's ranks have it. `sequence_length`: of the text. Collective
/// over the ranks that have the teacher.
nn::ModelOptions on_stage(const Rank& rank, nn::ModelOptions options, const nn::ModelConfig& teacher,
                          std::int64_t sequence_length);

/// Collective over the teacher's ranks, of which `rank` is one. Of several stages none begins more than twice as many
/// questions before another as there are stages.
class TeacherService {
 public:
  /// `teacher` has the layers that on_stage says for sequences of this length. `departure`: where answers lie until
  /// they are sent; null: the host's memory. All that is referred to outlives this.
  TeacherService(Rank& rank, const TeacherRanks& ranks, const LoadedTeacher& teacher, std::int64_t sequence_length,
                 core::MemoryPtr departure = nullptr);

  /// Of a data-parallel rank of the student.
  using NextQuestion = std::function<TeacherQuestion(int asker)>;
  /// A question of each asker, all of one kind, or what `next` says in their place; false: they dismiss us. Replicas
  /// that have fewer of them run along where experts are cut over all.
  bool answer_all(const NextQuestion& next = nullptr);
  /// Waits until all answers have come.
  void finish();

 private:
  TeacherQuestion hear_question(int asker) const;
  /// What this rank reads of what is asked.
  ReadTokens read(const TeacherQuestion& question) const;
  /// Of the replicas' first questions; those without an asker hear it here. A stage's ranks alone ask each other, for
  /// others may be at a later question. A stop that one was asked for is that of all from here on.
  TeacherQuestion::Kind kind_of_any(TeacherQuestion::Kind mine) const;
  std::vector<core::Tensor> name() const;
  /// Whether this rank was asked to stop, hidden states behind the layers that are asked for, and behind the last norm.
  /// Of several stages the last one's; the others have nothing.
  std::vector<core::Tensor> run(const TeacherQuestion& question);
  /// To the last stage: whether this one was asked to stop, and those of the layers that are asked for which it has. It
  /// does not wait until they are taken, as streams do not.
  void tell(const TeacherQuestion& question, const std::map<std::int64_t, core::Tensor>& layers) const;
  void send_on(const core::Tensor& rows) const;
  /// What the stages before tell.
  void hear(const TeacherQuestion& question, std::map<std::int64_t, core::Tensor>& layers) const;

  Rank& rank_;
  const TeacherRanks& ranks_;
  const LoadedTeacher& teacher_;
  Pipeline layers_of_stages_;
  core::MemoryPtr departure_;
  StagesInStep stages_;
  struct Sent {
    core::CommHandle handle;
    core::Tensor rows;  // lies there as long on an imagined rank, too, whose handles keep nothing
  };
  std::vector<Sent> sent_;  // that may be under way
};

/// Answers with this teacher until it is dismissed.
void answer_with(Rank& rank, const TeacherRanks& ranks, const LoadedTeacher& teacher, std::int64_t sequence_length);

/// With that of the config, which the ranks read first.
void serve_teacher(Rank& rank, const RunConfig& config, const TeacherRanks& ranks, const Log& log);

}  // namespace limbeck::launch
