// A student cut from its teacher: what it is, and where its weights come from, by the config's student_init.
//
//     nn::Transformer student(started_config(init, teacher.config(), "teacher.gguf"), options);
//     StudentSource source(rank, init, teacher, *teacher_reader, calibration, student.config(), seed);
//     source.load(student);
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/nn/student/greedy_layers.h"
#include "core/nn/student/student_init.h"
#include "launch/config/config.h"
#include "launch/run/rank.h"

namespace limbeck::launch {

/// How the student started.
struct StudentStart {
  std::vector<std::int64_t> layers;       // of the teacher that were kept; empty where it did not start from one
  std::vector<double> influence;          // of each of the teacher's layers, where they were measured
  std::vector<nn::DroppedLayer> dropped;  // by GREEDY_KL
  bool is_exact = true;                   // the upcycled student's logits equal the layer-skipped dense one's
};

/// The text that a start is chosen by.
struct CalibrationText {
  /// Of so many tokens, and one sequence at least, this rank's share.
  std::function<nn::Batch(std::int64_t tokens)> batch = {};
  /// The same in as many batches of few sequences as on any other rank, each of at most `longest` tokens.
  std::function<std::vector<nn::Batch>(std::int64_t tokens)> batches = {};
  std::int64_t longest = 0;
  std::int64_t valid_vocabulary = -1;  // tokens from here on are padding; -1: none is
};

/// The architecture of the student. Throws a UsageError that names the field where the teacher, `where`, has no such
/// student.
nn::ModelConfig started_config(const StudentInitConfig& init, const nn::ModelConfig& teacher, const std::string& where);

class StudentSource {
 public:
  /// Collective: measures what the choices ask for. `teacher` and `weights`, of which it is made, are used as long as
  /// this is; `student` is started_config, perhaps without layers that predict.
  StudentSource(Rank& rank, const StudentInitConfig& init, const nn::Transformer& teacher,
                const core::StateReader& weights, const CalibrationText& calibration, const nn::ModelConfig& student,
                std::uint64_t seed);

  const StudentStart& start() const { return start_; }
  /// Collective. Fills the student's weights, and centres the routers of experts that were dense on what they read.
  void load(nn::Transformer& student);

 private:
  void choose_layers(const nn::Transformer& teacher, std::int64_t keep);

  Rank& rank_;
  const StudentInitConfig& init_;
  const core::StateReader& weights_;
  const CalibrationText& calibration_;
  StudentStart start_;
  std::unique_ptr<nn::LayerSkip> skipped_;
  std::unique_ptr<nn::Upcycled> upcycled_;
};

}  // namespace limbeck::launch
