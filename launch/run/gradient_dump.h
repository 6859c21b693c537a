// `--dump-gradients OUT.h5`: one step's parameters, batch, losses and reduced gradients with global shapes, so that
// anything else can compute them again. tests/golden/check_gradients.py does.
//
//     GradientDump dump(rank, "out.h5", model_config, config, samples, parameters, trained);   // before the update
//     dump.write(result, trained);                                                             // after backward
#pragma once

#include <array>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/parameter.h"
#include "data/files/atomic_file.h"
#include "data/files/hdf5_file.h"
#include "data/text/loader.h"
#include "launch/config/config.h"
#include "launch/run/rank.h"
#include "launch/run/step.h"
#include "optim/fragment.h"
#include "optim/objectives.h"

namespace limbeck::launch {

class GradientDump {
 public:
  /// Collective: writes /parameters (those that are frozen named in the attribute `frozen`), /tokens, /targets,
  /// /positions, /documents [B,S] and, as attributes, the model's numbers and those of the step's `objective`, which
  /// count with a teacher.
  GradientDump(Rank& rank, const std::filesystem::path& file, const nn::ModelConfig& model, const RunConfig& config,
               const optim::DistillationOptions& objective, std::int64_t valid_vocabulary,
               const data::TokenBatch& samples, const core::ParameterList& parameters,
               const std::vector<optim::Fragment>& trained);
  /// Collective: writes /gradients/<module path> (unclipped) and /loss/<term> (ce, kl, balance and z unweighted means,
  /// and the total), and gives the file its name.
  void write(const StepResult& result, const std::vector<optim::Fragment>& trained);

 private:
  using Parts = std::vector<std::pair<std::string, core::StateEntry>>;
  /// Collective: what the ranks have the parts of; each stage of a pipeline those of its own layers.
  void write_all(const std::string& group, const Parts& parts);
  void write_whole(const std::string& group, const std::string& name, const core::StateEntry& entry);

  Rank& rank_;
  bool has_teacher_;
  double hidden_weight_, routers_weight_;
  std::array<double, nn::num_blocks> update_weights_;
  double balance_weight_, z_weight_;
  std::optional<data::TemporaryFile> temporary_;  // of the first rank
  std::optional<data::Hdf5File> file_;            // under that name
};

}  // namespace limbeck::launch
