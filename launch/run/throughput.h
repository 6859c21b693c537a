// How fast a run was.
#pragma once

namespace limbeck::launch {

/// What a run achieved, over the steps of this process.
struct Throughput {
  double tokens_per_s = 0;
  double mfu = 0;      // share of the ranks' measured float32 peak: the model's operations, as the loop counts them
  double seconds = 0;  // in steps
};

}  // namespace limbeck::launch
