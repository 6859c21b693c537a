// `limbeck verify`: whether a run's numbers are the same under every layout. A few steps are made on one rank, and the
// same under a layout; of each the loss, every parameter's gradient and the updated weights are compared.
//
//     const VerifiedSteps reference = steps_on_one_rank(exact(config, DType::F32), 3, log);
//     run_ranks(4, [&](const auto& world) {
//       const auto differences = differences_from(reference, world, config_of_the_layout, log);   // the same on all
//     });
//
// Rounding is kept from growing, so that what differs is wrong: under float32 the layout replays the reference's
// routing, which near-ties would flip, and says what it would have chosen itself; and each update takes the reference's
// gradients once the layout's own have been compared, for Adam makes a whole step of a gradient that is all but zero.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/nn/routing_log.h"
#include "launch/config/config.h"
#include "launch/console/log.h"
#include "parallel/comm/world.h"

namespace limbeck::launch {

/// What is compared of a model that is computed in `precision`, float32 or float64: the same run, without what rounds
/// to less, and without text that a model samples.
RunConfig exact(RunConfig config, core::DType precision);

/// Largest differences that rounding makes.
double usual_tolerance(core::DType precision);

/// The reference: steps of one rank, and all that they gave. Tensors lie on the host, whole, by parameter.
struct VerifiedSteps {
  using Tensors = std::map<std::string, core::Tensor>;
  struct Step {
    double loss = 0;
    double gradient_norm = 0;
    double greatest_gradient = 0;  // of all entries
    Tensors gradients;
    nn::RoutingLog routing, teacher_routing;
  };
  nn::ModelConfig model;
  std::int64_t num_tokens = 0;  // of a step
  Tensors start, end;           // weights before and behind the steps
  std::vector<Step> steps;
  std::map<std::int64_t, core::Tensor> hidden;  // [tokens,C] behind each layer, in the first step
  bool replays = false;                         // layouts take its routing
};

/// Runs `config`, but for what of it is parallel, alone.
VerifiedSteps steps_on_one_rank(RunConfig config, std::int64_t num_steps, const Log& log);

/// A token that would have gone to other experts than the reference's.
struct Flip {
  std::int64_t step = 0, layer = 0, token = 0;  // the token's number in the step
  std::string reference, own;                   // experts, "0,3"
  friend auto operator<=>(const Flip&, const Flip&) = default;
};

/// How far a layout is from the reference. A difference is that of two numbers by the reference's; of tensors that of
/// their entries by the greatest of the reference's, of gradients at least a hundredth of the greatest of all
/// gradients. Infinite where a number is not finite, or a part lies on no rank.
struct LayoutDifferences {
  struct Worst {
    double difference = 0;
    std::string parameter;  // empty: all are equal
    std::int64_t step = 0;  // 0: before the first
    void offer(const Worst& other) {
      if (other.difference > difference) *this = other;
    }
  };
  double loss = 0;
  double gradient_norm = 0;
  Worst gradient = {}, weight = {};
  double first_loss = 0;  // of the first step alone, before any update
  Worst first_gradient = {};
  std::vector<double> hidden = {};  // behind each layer, in the first step
  std::int64_t num_flips = 0;
  std::vector<Flip> flips = {};  // the first of them
  std::string error = {};        // why its steps could not be made; the rest is of no meaning then

  bool within(double tolerance) const;
  /// The first layer behind which the forward pass differs by more; nothing where it is the same to the end.
  std::optional<std::int64_t> first_layer(double tolerance) const;
};

/// Collective: makes the same steps over `world`, as `config` cuts it. The same on every rank of the student's; a
/// teacher's own rank returns nothing. `config` is the reference's, but for what may change no number; `thread` as
/// in_world has it (rank.h).
std::optional<LayoutDifferences> differences_from(const VerifiedSteps& reference,
                                                  const std::shared_ptr<parallel::WorldComm>& world,
                                                  const RunConfig& config, const Log& log, int thread = 0);

}  // namespace limbeck::launch
