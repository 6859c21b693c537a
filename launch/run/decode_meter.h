// How fast a text is said, and by how many joules.
//
//     DecodeMeter meter(rank);
//     const nn::Generated generated = nn::generate_texts(model, prompts, options);
//     meter.figures(generated, rank.world().size()).joules;
#pragma once

#include <optional>

#include "core/nn/generation.h"
#include "launch/run/energy_meter.h"
#include "launch/run/rank.h"
#include "launch/run/run_facts.h"

namespace limbeck::launch {

class DecodeMeter {
 public:
  /// Energy is known to the first rank, where all are on its machine.
  explicit DecodeMeter(const Rank& rank);

  /// Of what was generated since this was made, by so many ranks. Of the joules decoding has its share of the time: as
  /// if running the prompts took alike.
  WorkFigures figures(const nn::Generated& generated, std::int64_t ranks);

 private:
  std::optional<EnergyMeter> meter_;
};

}  // namespace limbeck::launch
