// What is said of how evenly experts are used.
//
//     ExpertLoad load = expert_load({30, 10, 0, 24}, 70);   // assignments that each expert of a layer took, of 70
//     load.entropy;                                         // 1: all experts alike; 0: one has everything
//
//     LoadCounter counter(model.config());
//     counter.watch(pass);                                  // for every pass over the sample
//     ModelLoad of_all = model_load(model.config(), counter.sum_over(rank).assignments);
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/nn/pass.h"
#include "launch/run/rank.h"

namespace limbeck::launch {

using core::Tensor;

struct ExpertLoad {
  double min = 0;      // least share of the assignments that an expert got
  double max = 0;      // greatest
  double drops = 0;    // assignments that no expert took
  double entropy = 0;  // -sum_e s_e log s_e of the shares, over log E
};

/// Shares are of what was taken. All 0 but the drops where nothing was. A single expert has entropy 1.
ExpertLoad expert_load(std::span<const double> assignments, double chosen);

/// At most `most` experts, those with most assignments, of those that have more than the mean; ascending.
std::vector<std::int64_t> most_loaded(std::span<const double> assignments, std::int64_t most);

/// Counts what the experts of a model take in the passes that it watches.
class LoadCounter {
 public:
  /// By MoE layer; nothing of a dense model.
  struct Counts {
    std::vector<std::vector<double>> assignments;  // of each expert
    std::vector<double> untaken;                   // tokens that no expert took
  };

  /// `predicts`: the passes run the layers that predict further tokens too, which count behind the others.
  explicit LoadCounter(const nn::ModelConfig& model, bool predicts = false);
  /// The counter has to outlive the pass.
  void watch(nn::Pass& pass);
  /// Collective: those of all ranks.
  Counts sum_over(Rank& rank);

  /// The same, where the models are.
  class Sums {
   public:
    /// What is there when this is queued goes on its way to the host; may be asked again.
    void start_reading();
    Counts read();  // what was on its way last

   private:
    friend class LoadCounter;
    std::int64_t row_ = 0;
    Tensor sums_;
    std::optional<core::HostCopy> copy_;
  };
  Sums start_sum_over(Rank& rank);

 private:
  Tensor& counts_in(const core::MemoryPtr& memory);
  std::int64_t row() const { return num_experts_ + 1; }

  std::vector<std::int64_t> row_of_layer_;  // -1: dense
  std::int64_t num_rows_ = 0;
  std::int64_t num_experts_;
  Tensor counts_;  // [MoE layer * row] float64: of the experts, and the untaken tokens
};

/// An expert starves if it takes less than this of what each would take of an even load.
constexpr double starved_below = 0.05;

/// How evenly the experts of all layers are used, over one sample.
struct ModelLoad {
  double mean_entropy = 0;  // of the layers' ExpertLoad::entropy
  double worst_entropy = 0;
  std::int64_t worst_layer = 0;
  std::int64_t num_experts = 0;  // of all layers
  std::int64_t num_starved = 0;
  std::vector<std::int64_t> starved_layers;  // in which there is a starved expert
  double even_share = 0;                     // assignments of each expert of an even load
};

/// `assignments`: as LoadCounter gives them. Nothing of a dense model.
std::optional<ModelLoad> model_load(const nn::ModelConfig& model, const std::vector<std::vector<double>>& assignments);

/// What is wrong and what helps, one line that names the layers; `experts_choose`: routing.expert_choice, beside which
/// there is no balance loss. Nothing where no expert starves, and where the sample is so small that one of an even load
/// may be without tokens by chance.
std::optional<std::string> starved_warning(const std::optional<ModelLoad>& load, bool experts_choose);

}  // namespace limbeck::launch
