// Where the ranks stand, and how the message of a missed deadline names those that have not come.
//
//     Whereabouts mine = engine.whereabouts();
//     HeldUp by = tell_missing(operation.waits_for(), [&](int rank) { return answer_of(rank); });
//     // by.who: "; rank 3 has not come and does not answer: last heard of at step 7, in barrier in group world"
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace limbeck::parallel {

/// A rank's operation, and the training step that it belongs to.
struct Sign {
  std::int64_t step = 0;    // 0: before the first
  std::int64_t number = 0;  // of this rank's operations in all groups; 0: none yet
  std::string operation;    // "all_reduce(sum) of 8 float32 (gradients of norm.weight) in group dp"
};

/// A rank that another waits for, and what that one heard of it last.
struct Missing {
  int rank = 0;  // in the world
  Sign heard;
};

/// What a rank says of itself.
struct Whereabouts {
  Sign at;  // the operation that it waits in, or else its last
  bool is_waiting = false;
  std::vector<Missing> waits_for = {};
  std::string disk = {};  // while it waits for no rank, but for a disk: "reads data/train.bin" (file_waits.h); else ""
};

/// By whom a wait is held up.
struct HeldUp {
  std::string who = {};        // "; rank 3 has not come: ...", for each
  bool only_by_disks = false;  // each of them waits for one
};

/// The ranks that hold up the others: the missing ones, and where they wait for others themselves, those. `ask` gives
/// what a rank answers, or nothing where it does not. Nobody where none is missing.
HeldUp tell_missing(const std::vector<Missing>& missing, const std::function<std::optional<Whereabouts>(int)>& ask);

}  // namespace limbeck::parallel
