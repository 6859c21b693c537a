// What `limbeck verify` found, for people and for programs.
//
//     write_result(verification_text(verification));
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "launch/run/verification.h"

namespace limbeck::launch {

struct VerifiedLayout {
  std::string layout;  // as it was asked for
  int num_ranks = 0;
  LayoutDifferences differences = {};
};

struct Verification {
  core::DType precision = core::DType::F32;
  double tolerance = 0;
  std::int64_t num_steps = 0;
  std::int64_t num_tokens = 0;  // of a step
  std::vector<VerifiedLayout> layouts = {};

  bool passes() const;
};

/// A row a layout; below, of those that differ, where they begin to, and the tokens whose routing would have flipped.
std::string verification_text(const Verification& verification);

/// {"precision", "tolerance", "steps", "tokens", "passes", "layouts": [{"layout", "ranks", "passes", "loss",
/// "gradient_norm", "gradient": {"difference", "parameter", "step"}, "weight": likewise, "hidden": [by layer],
/// "flips": N, "flipped": [{"step", "layer", "token", "reference", "own"}]}]}. A difference that is infinite is null;
/// of a layout that failed otherwise there is "error" in place of all differences.
nlohmann::ordered_json verification_json(const Verification& verification);

}  // namespace limbeck::launch
