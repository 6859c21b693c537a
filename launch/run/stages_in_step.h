// Keeps the stages of a pipeline together over a text that is measured, or that a teacher on ranks of its own is asked
// for. The last has the most to do with each piece of it, the head and perhaps a teacher, or answers; what the others
// send ahead lies in memory until it is taken, and whoever has sent all of it would wait for the last one as long as
// that takes, deadline or not.
//
//     StagesInStep stages(rank);
//     for (const Part& part : parts) {
//       stages.next();
//       model.forward(off, model.pass(part.batch));
//     }
#pragma once

#include <cstdint>

#include "launch/run/rank.h"

namespace limbeck::launch {

class StagesInStep {
 public:
  explicit StagesInStep(Rank& rank) : rank_(rank) {}

  /// Collective over the stages, which all call it equally often: a piece begins. No stage is more than twice as many
  /// pieces ahead of another as there are stages. One stage alone waits for nobody.
  void next();

 private:
  Rank& rank_;
  std::int64_t pieces_ = 0;  // that have begun
};

}  // namespace limbeck::launch
