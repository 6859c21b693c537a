// A student cut from its teacher: what it is, and where its weights come from, by the config's student_init.
//
//     nn::Transformer student(started_config(init, teacher.config(), "teacher.gguf"), options);
//     StudentSource source(rank, init, teacher, *teacher_reader, calibration, student.config(), seed);
//     source.load(student);
//     source.weights().read("layers.0.moe.experts.up", entry);      // the same ones, whole, a few rows at a time
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/nn/student/activity.h"
#include "core/nn/student/expert_start.h"
#include "core/nn/student/greedy_layers.h"
#include "core/nn/student/student_init.h"
#include "launch/config/config.h"
#include "launch/run/evaluation.h"
#include "launch/run/rank.h"

namespace limbeck::launch {

/// What was kept of the activity (activity.h) of all parts of a kind, 0 to 1, mean over the layers; nothing where none
/// was cut.
struct KeptActivity {
  std::optional<double> neurons, kv_heads, channels;
  bool is_empty() const { return !neurons && !kv_heads && !channels; }
};

/// How the student started.
struct StudentStart {
  std::vector<std::int64_t> layers = {};       // of the teacher that were kept; empty where it did not start from one
  std::vector<double> influence = {};          // of each of the teacher's layers, where they were measured
  std::vector<nn::DroppedLayer> dropped = {};  // by GREEDY_KL
  /// By layer that is kept, the teacher's experts that each of its experts is made of, or that its dense feed-forward
  /// is; none of a layer that is dense there. Empty where experts stay as they are.
  std::vector<std::vector<std::vector<std::int64_t>>> experts = {};
  KeptActivity activity = {};
  Evaluation calibration = {};  // of the student against its teacher on training text, before it learns
  std::int64_t vocabulary = 0;  // tokens that stay, where not all do
  bool is_exact = true;         // the upcycled student's logits equal those of the dense one that it is cut from
};

/// Batches, and how many of them, from the first on, each stage of a search ends with (greedy_layers.h).
struct StagedBatches {
  std::vector<nn::Batch> batches;
  std::vector<std::size_t> stages;
};

/// The text that a start is chosen by.
struct CalibrationText {
  /// Of so many tokens, and one sequence at least, this rank's share.
  std::function<nn::Batch(std::int64_t tokens)> batch = {};
  /// Of so many tokens of short sequences, in batches of few of them, as many as on any other rank; a quarter, a half,
  /// and all of the sequences are the stages, whoever has which.
  std::function<StagedBatches(std::int64_t tokens)> staged = {};
  std::int64_t valid_vocabulary = -1;  // tokens from here on are padding; -1: none is
};

/// The architecture of the student. Throws a UsageError that names the field where the teacher, `where`, has no such
/// student.
nn::ModelConfig started_config(const StudentInitConfig& init, const nn::ModelConfig& teacher, const std::string& where);

/// Whether the teacher is run to choose what of it stays.
bool runs_teacher(const StudentInitConfig& init);

class StudentSource {
 public:
  /// Collective: measures what the choices ask for, on the teacher with the layers that stay. `weights` are those that
  /// it is made of, used as long as this is, as the `init` is; `student` is started_config, perhaps without layers that
  /// predict.
  StudentSource(Rank& rank, const StudentInitConfig& init, nn::Transformer& teacher, const core::StateReader& weights,
                CalibrationText calibration, const nn::ModelConfig& student, std::uint64_t seed);

  const StudentStart& start() const { return start_; }
  /// Collective. Fills the student's weights, and centres the routers of experts that were dense on what they read.
  void load(nn::Transformer& student);
  /// Of the student, as load() leaves them.
  const core::StateReader& weights() const { return *readers_.back(); }

 private:
  void choose_layers(const nn::Transformer& teacher, std::int64_t keep);
  void choose_experts(nn::Transformer& teacher, nn::ModelConfig& config);
  void choose_parts(const nn::Transformer& teacher, nn::ModelConfig& config);
  template <class Reader, class... Arguments>
  Reader& add_reader(Arguments&&... arguments);

  Rank& rank_;
  const StudentInitConfig& init_;
  const core::StateReader& teacher_weights_;
  CalibrationText calibration_;
  StudentStart start_;
  std::vector<std::unique_ptr<core::StateReader>> readers_;  // each reads the one before, the first the teacher's
  nn::Upcycled* upcycled_ = nullptr;                         // the last one, where there is such a one
};

}  // namespace limbeck::launch
