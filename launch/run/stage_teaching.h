// What the layers of a pipeline's stages are held to: the teacher runs where the head is, on the last stage, and what
// it gives for the layers of the others goes from there to each of them.
//
//     StageTeaching teaching(step, pipeline);
//     pass.set_taught(teaching.take(micro_batch, chunk));    // in front of each forward, in the schedule's order
//     ...                                                    // the stream of the stage before is here
//     teaching.note_stream(micro_batch, chunk);
//
// The teacher is as many micro-batches ahead of its own stage's first chunk as there are stages, so that those before,
// which are ahead too, do not wait for it. And nobody waits for himself, whatever the schedule: forwards go in one
// order on all P ranks, chunks in rounds of P micro-batches, and what a rank does in front of its n-th forward needs at
// most the (n + P - 2)-th of any other, so none of the round behind: from the last rank to the first, whose backwards
// come 2 (P - 1) forwards later, a gradient goes on to a micro-batch that is P forwards earlier.
#pragma once

#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "launch/run/pipeline.h"
#include "launch/run/taught.h"

namespace limbeck::launch {

class StageTeaching {
 public:
  /// Both outlive it.
  StageTeaching(const StepContext& step, const Pipeline& pipeline);

  /// What a chunk of this stage is held to, and of the last one of all what the head needs too.
  Taught take(int micro_batch, int chunk);
  /// The stream for this chunk has come, so that all stages before have taken what was sent to them of the micro-batch.
  void note_stream(int micro_batch, int chunk);

 private:
  bool is_last_stage() const { return step_.rank.is_last_stage(); }
  /// The part for a virtual stage.
  Taught part_for(const Taught& all, const core::Slice& layers) const;
  /// The same, of this stage's, which is not there yet.
  Taught room_for(std::size_t micro, const core::Slice& layers) const;
  void run(int micro_batch);

  const StepContext& step_;
  const Pipeline& pipeline_;
  std::map<std::pair<int, int>, Taught> taught_;            // by micro-batch and chunk of this stage
  std::map<int, std::vector<core::CommHandle>> under_way_;  // by micro-batch
  int next_ = 0;                                            // micro-batch
};

}  // namespace limbeck::launch
