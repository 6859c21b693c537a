// A model, its objective and its figures written out once more from single ops and plain sums, on one rank and in
// float64: what whole runs of the program are held against. Nothing here is of core/nn, optim or launch but the structs
// of numbers, so a fault in the wiring of those cannot be on both sides.
//
//     WrittenOut model(config, init_weights(config, /*seed=*/1));
//     core::Tape tape;
//     WrittenOut::Pass pass = model.run(tape, samples, {.balance = 0.01});
//     Figures figures = figures_of(pass.logits.value, nullptr, samples.targets, /*valid=*/257);
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "core/nn/model_config.h"
#include "core/nn/pass.h"
#include "core/state_dict.h"
#include "data/text/loader.h"

namespace limbeck::testing {

/// By module path; each with a slot of its own.
using Weights = std::map<std::string, core::Var>;

/// A text of one document as one sequence without targets.
data::TokenBatch as_sequence(const std::vector<std::int32_t>& text);

/// The shape of every weight of a model (docs/parameter_names.md).
std::map<std::string, core::Shape> shapes_of(const nn::ModelConfig& config);
/// Matrices normal with deviation 0.02, over sqrt(2 L) where they write to the residual stream; norms one.
Weights init_weights(const nn::ModelConfig& config, std::uint64_t seed);
Weights read_weights(const nn::ModelConfig& config, const core::StateReader& reader);

class WrittenOut {
 public:
  WrittenOut(nn::ModelConfig config, Weights weights) : config_(std::move(config)), weights_(std::move(weights)) {}

  struct Pass {
    std::vector<core::Var> states;                 // [T,C] before each layer, and behind the last
    core::Var logits;                              // [T,V]
    core::Var balance, z;                          // weighted, summed over the layers with experts; undefined without
    double balance_square = 0, z_square = 0;       // of their gradients with respect to the routers' logits
    std::vector<std::vector<double>> load = {};    // [layer with experts][expert]: assignments without the dropped ones
    std::vector<double> untaken = {};              // [layer with experts]: tokens without an expert
    std::vector<core::Tensor> router_inputs = {};  // [layer with experts]: [T,C]
  };
  /// All sequences in one pass, as the whole of a step.
  Pass run(core::Tape& tape, const data::TokenBatch& samples, const nn::RouterTraining& router = {}) const;
  /// Logits [V] behind the last token of a text.
  std::vector<double> next_logits(const std::vector<std::int32_t>& text) const;

  const nn::ModelConfig& config() const { return config_; }
  Weights& weights() { return weights_; }

 private:
  core::Var feed_forward(core::Tape& tape, const core::Var& x, const std::string& prefix) const;
  core::Var experts(core::Tape& tape, const core::Var& x, std::int64_t layer, const nn::Batch& batch,
                    const nn::RouterTraining& router, Pass& pass) const;

  nn::ModelConfig config_;
  Weights weights_;
};

/// Means over the tokens with a target, of distributions over the first `valid` columns; what needs a teacher is 0
/// without one.
struct Figures {
  double tokens = 0;
  double ce = 0, teacher_ce = 0, kl = 0, agreement = 0, sum_min = 0;
  double ece = 0, teacher_ece = 0;               // calibration errors, of 15 bins
  double kl_median = 0, kl_p90 = 0, kl_p99 = 0;  // the value at place floor(q (n - 1)) of the n sorted ones
  std::vector<std::vector<double>> load = {};    // as WrittenOut::Pass has it, where it is known
};
/// A token's most likely next one: its probability, and whether it came.
using Tops = std::vector<std::pair<double, bool>>;
/// The expected calibration error: a bin after the other.
double calibration_error(const Tops& tops);
Figures figures_of(const core::Tensor& student /*[T,V]*/, const core::Tensor* teacher, const std::vector<int>& targets,
                   std::int64_t valid);

/// alpha CE + (1 - alpha) T^2 D(p_T, q_T), mean over the tokens with a target; its gradient [T,V] is written. D is
/// KL(p || q), or with a mix b the Jensen-Shannon divergence b KL(p || m) + (1 - b) KL(q || m), m = b p + (1 - b) q.
struct WrittenOutObjective {
  double alpha = 1;
  double temperature = 1;
  double mix = 0;
  double loss(const core::Tensor& student /*[T,V]*/, const core::Tensor* teacher, const std::vector<int>& targets,
              std::int64_t valid, core::Tensor& gradient) const;
};

/// weight times the mean square between states [T,C] behind layers of two models, mean over the layers and over the
/// tokens with a target; the gradients are added to the first's.
struct WrittenOutMatch {
  double weight = 0;
  std::vector<std::size_t> layers = {};  // of the second, for each of the first
  double loss(const WrittenOut::Pass& first, const WrittenOut::Pass& second, const std::vector<int>& targets) const;
};

/// torch.optim.AdamW, a weight at a time.
struct WrittenOutAdamW {
  double beta1, beta2, eps;
  std::map<std::string, std::vector<double>> mean = {}, square = {};
  std::int64_t steps = 0;
  /// `rate` and `decay` of a weight by its name.
  void step(Weights& weights, const std::map<std::string, std::vector<double>>& gradients,
            const std::function<double(const std::string&)>& rate,
            const std::function<double(const std::string&)>& decay);
};

}  // namespace limbeck::testing
