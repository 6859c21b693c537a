// One optimizer step's forward and backward passes over a rank's share of the step's sequences, under any layout.
//
//     GradientSync sync(student.parameters(), rank.mesh(), rank.memory(), core::DType::F32, bucket_bytes);
//     StepResult result = forward_backward(rank, {student, &teacher, objective}, samples, options, sync);
//     // every parameter's slot now holds the gradient of the whole step, reduced
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <utility>
#include <vector>

#include "core/finite_watch.h"
#include "core/nn/transformer.h"
#include "core/ops/head_loss.h"
#include "core/ops/match_rows.h"
#include "launch/config/config.h"
#include "launch/run/batch.h"
#include "launch/run/cached_teacher.h"
#include "launch/run/evaluation.h"
#include "launch/run/expert_load.h"
#include "launch/run/mapped_layers.h"
#include "launch/run/other_teachers.h"
#include "launch/run/pipeline.h"
#include "launch/run/rank.h"
#include "launch/run/teacher_ranks.h"
#include "launch/run/tokenizer_bridge.h"
#include "parallel/axes/gradient_sync.h"
#include "parallel/pipeline/schedule.h"

namespace limbeck::launch {

class RelaidTeacher;

struct StepModels {
  nn::Transformer& student;
  const nn::Transformer* teacher;  // null: none runs beside the student
  const core::Objective& objective;
  const MappedLayers* streamed = nullptr;  // the teacher's, where its weights come from the disk in each pass
  const OtherTeachers* others = nullptr;   // beside the teacher; null: it is alone
  // In the teacher's place:
  CachedTeacher* cached = nullptr;
  RemoteTeacher* remote = nullptr;          // one on other ranks
  const TokenizerBridge* bridge = nullptr;  // one of other tokens
  RelaidTeacher* relaid = nullptr;          // one over the same ranks in another layout
};

/// What stands in the teacher's place (objective.control); an untrained one is StepModels' teacher.
struct TeacherControl {
  Control kind = Control::None;
  double smoothing = 0.1;
};

/// That hidden states behind the student's layers are to be those behind the teacher's.
struct HiddenMatch {
  double weight = 0;  // of the mean over the layers that have one, and over tokens with a target
  kernels::RowDistance distance = kernels::RowDistance::Cosine;
  std::vector<std::int64_t> layers = {};  // the teacher's, of each of the student's; -1: none
  core::ParameterList projectors = {};    // [Ct,C], of each of the student's, before it is compared; empty: none
  std::int64_t num_matched() const { return std::ssize(layers) - std::ranges::count(layers, -1); }
  /// The teacher's that there are, each once, ascending.
  std::vector<std::int64_t> asked_layers() const;
};

/// Of what attention and feed-forward add to the stream, by nn::Block, without projectors.
using UpdateMatches = std::array<std::optional<HiddenMatch>, nn::num_blocks>;
inline constexpr std::array<const char*, nn::num_blocks> update_names = {"attention", "feed_forward"};

/// That experts are chosen as the teacher's are.
struct RouterMatch {
  double weight = 0;                      // as HiddenMatch's
  std::vector<std::int64_t> layers = {};  // likewise
  bool by_load = true;                    // tokens are weighted by core::load_weights of the teacher's choices
  std::int64_t num_matched() const { return std::ssize(layers) - std::ranges::count(layers, -1); }
};

/// What is seen of a step while it runs, for whoever compares steps. All of it may be empty.
struct StepWatch {
  /// Called with each pass over a micro-batch as it is about to run, and its model: the student or the teacher.
  std::function<void(nn::Pass& pass, const nn::Transformer& model)> pass = {};
  /// Called once the gradients are reduced, before anything reads them; it may change them, on all ranks alike.
  std::function<void()> gradients = {};
  core::FiniteWatch* finite = nullptr;  // of what the passes' operations give
};

struct StepOptions {
  std::int64_t micro_batches = 1;
  const Pipeline* pipeline = nullptr;  // which layers, and the schedule of as many; null: one by one, on one stage
  nn::RouterTraining router = {};
  std::span<const std::vector<std::int64_t>> replicated = {};  // as Pass has it
  std::int64_t expert_chunks = 1;                              // likewise, and of the teacher's passes
  std::int64_t tensor_chunks = 1;                              // likewise
  bool recompute = false;
  bool delay_weight_parts = false;          // as they are between ranks of a tensor group
  std::int64_t valid_vocabulary = -1;       // tokens from here on are padding in both heads; -1: none is
  nn::RoutingLog* routing = nullptr;        // choices to replay; recorded into where it lacks them
  double predict_weight = 0;                // of the mean of the losses of layers that predict further tokens
  double temperature = 1;                   // at which the probabilities of several teachers are mixed
  Bridge bridge = Bridge::Spans;            // how a student learns over one, where there is one
  double preference_beta = 0;               // of the preferences that the step's pairs are; 0: it has none
  double bridge_ce_weight = 0.5;            // of cross-entropy beside what is learnt over a bridge
  std::optional<RewardConfig> reward = {};  // of a model with a reward head, of the step's pairs too
  // With a teacher, the first also with a cache that keeps them:
  std::optional<HiddenMatch> hidden = {};
  UpdateMatches updates = {};
  std::optional<RouterMatch> routers = {};
  TeacherControl control = {};
  StepWatch watch = {};
};

/// When a step's passes make the gradients of weights: a schedule's gaps are for what it leaves for them; else they are
/// made beside the sums over a tensor group, and between GPUs beside experts' rows.
core::Tape::WeightParts weight_parts_of(const Rank& rank, const parallel::PipelineSchedule& schedule,
                                        const StepOptions& options);

/// Sums and means over all ranks and micro-batches.
struct StepResult {
  CachedTeacher::Figures cache;                // of this step, where the teacher is a cache; the wait is this rank's
  double teacher_wait_seconds = 0;             // of this rank, for a teacher on others
  core::LossStatistics head;                   // sums over valid targets; zeros of a reward head
  double objective = 0;                        // the objective's mean over valid targets, or pairs
  std::optional<PreferenceResult> preference;  // of a step of pairs
  std::optional<SpanResult> spans;             // of a step over a bridge, by spans
  std::optional<SortedResult> sorted;          // likewise by sorted distributions
  std::vector<core::LossStatistics> predict;   // of each depth; sums over its own valid targets
  double hidden = 0;                           // the hidden states' distance, weighted
  std::array<double, nn::num_blocks> updates = {};  // likewise of what blocks give, by nn::Block
  double routing = 0;                               // likewise
  double hidden_square = 0;  // of their gradients with respect to what is compared: the sum of squares
  std::array<double, nn::num_blocks> update_squares = {};
  double routing_square = 0;  // of core::match_routing
  double balance = 0;         // router losses, weighted
  double z = 0;
  double balance_square = 0, z_square = 0;  // of their gradients with respect to the routers' logits
  /// [MoE layer, those that predict last][expert]: assignments, without the dropped ones
  std::vector<std::vector<double>> expert_load;
  std::vector<double> untaken;  // by such layers: tokens that no expert took
  /// Of the layers that predict, weighted: their part of the loss.
  double predict_loss() const;
  double loss() const;
};

/// What the passes of a step read that is new in each.
struct StepInput {
  std::vector<nn::Batch> batches;              // of this rank, by micro-batch
  std::vector<CachedTeacher::Part> taught;     // of each, what the teacher's cache has of it; empty without one
  std::vector<RemoteTeacher::Answer> answers;  // of each, what one on other ranks or in another layout says; or empty
  std::vector<data::TokenBatch> texts;         // of each, whose whole distributions are read from the cache; empty else
  std::vector<BridgedBatch> bridged;           // of each, what a teacher of other tokens reads; empty without one
  std::vector<TokenShares> shares;             // of each, where there are several teachers
  core::Tensor per_target;                     // [1] float64: 1 / the step's targets, or its pairs
  double text_seconds = 0;                     // that the samples took to read
  double teacher_seconds = 0;                  // that one in another layout took, until it was queued
};

/// Of samples that are the same on every rank; rank and micro-batch fetch theirs by index, some may have none. Throws
/// where the step has no valid target. Collective over all ranks with a teacher in another layout, of whose operations
/// `watch` sees what they give, where it is not null.
StepInput read_input(const core::MemoryPtr& memory, const Rank& rank, const StepText& samples,
                     std::int64_t micro_batches, const StepModels& models, core::FiniteWatch* watch = nullptr);
/// What read_input will read of `samples`: the same batches, of sequences as cp cuts them, or whole.
std::vector<data::TokenBatch> batches_of(const Rank& rank, const StepText& samples, std::int64_t micro_batches,
                                         bool are_whole = false);

/// Passes that are queued, and their figures.
class QueuedPasses {
 public:
  /// What is there when this is queued goes on its way to the host; may be asked again.
  void start_reading();
  StepResult read();  // waits for what was on its way last; of text_seconds it knows nothing

 private:
  friend QueuedPasses queue_passes(Rank&, const StepModels&, const StepInput&, const StepOptions&,
                                   parallel::GradientSync&);
  QueuedPasses(core::Tensor sums, LoadCounter::Sums load, Bridge bridge, double bridge_ce_weight)
      : sums_(std::move(sums)), load_(std::move(load)), bridge_(bridge), bridge_ce_weight_(bridge_ce_weight) {}

  core::Tensor sums_;
  std::optional<core::HostCopy> copy_;
  LoadCounter::Sums load_;
  Bridge bridge_;  // StepOptions', where there is a bridge
  double bridge_ce_weight_;
};

/// Collective. The input is in the rank's memory.
QueuedPasses queue_passes(Rank& rank, const StepModels& models, const StepInput& input, const StepOptions& options,
                          parallel::GradientSync& sync);
/// The same of samples, waited for.
StepResult forward_backward(Rank& rank, const StepModels& models, const StepText& samples, const StepOptions& options,
                            parallel::GradientSync& sync);

}  // namespace limbeck::launch
