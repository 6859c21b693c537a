#include "launch/run/stage_teaching.h"

#include <algorithm>
#include <functional>

#include "core/exchanges_of.h"

namespace limbeck::launch {
namespace {

using core::DType;
using core::Tensor;
using Kind = nn::PipelineComm::Kind;

/// Calls f with each layer of the teacher's that some of these layers of the student's are held to, once, and the first
/// of those.
void for_each_asked(const std::vector<std::int64_t>& asked, const core::Slice& layers,
                    const std::function<void(std::int64_t of_teacher, std::int64_t layer)>& f) {
  std::map<std::int64_t, std::int64_t> first;
  for (std::int64_t layer = layers.first; layer < layers.first + layers.count; ++layer)
    if (const std::int64_t of_teacher = match_of(asked, layer); of_teacher >= 0) first.emplace(of_teacher, layer);
  for (const auto& [of_teacher, layer] : first) f(of_teacher, layer);
}

/// What travels, in one order.
void for_each_tensor(const Taught& taught, const std::function<void(const Tensor& rows)>& f) {
  for (const auto& [layer, rows] : taught.layers) f(rows);
  for (const auto& of_block : taught.updates)
    for (const auto& [layer, rows] : of_block) f(rows);
  for (const auto& [layer, routing] : taught.routing) {
    f(routing.probabilities);
    if (routing.weights.defined()) f(routing.weights);
  }
}

}  // namespace

StageTeaching::StageTeaching(const StepContext& step, const Pipeline& pipeline) : step_(step), pipeline_(pipeline) {}

Taught StageTeaching::part_for(const Taught& all, const core::Slice& layers) const {
  const StepOptions& options = step_.options;
  Taught part;
  if (options.hidden)
    for_each_asked(options.hidden->layers, layers,
                   [&](std::int64_t theirs, std::int64_t) { part.layers[theirs] = all.layers.at(theirs); });
  for (std::size_t at = 0; at < nn::num_blocks; ++at)
    if (options.updates[at])
      for_each_asked(options.updates[at]->layers, layers,
                     [&](std::int64_t theirs, std::int64_t) { part.updates[at][theirs] = all.updates[at].at(theirs); });
  if (options.routers)
    for_each_asked(options.routers->layers, layers,
                   [&](std::int64_t theirs, std::int64_t) { part.routing[theirs] = all.routing.at(theirs); });
  return part;
}

Taught StageTeaching::room_for(std::size_t micro, const core::Slice& layers) const {
  const StepOptions& options = step_.options;
  const nn::Transformer& student = step_.models.student;
  const std::int64_t tokens = step_.input.batches.at(micro).num_tokens();
  const auto rows = [&](std::int64_t width) {
    return Tensor::empty(step_.rank.memory(), core::sum_dtype(student.residual_dtype()), {tokens, width});
  };
  Taught part;
  if (options.hidden)
    for_each_asked(options.hidden->layers, layers, [&](std::int64_t theirs, std::int64_t layer) {
      const core::ParameterList& projectors = options.hidden->projectors;
      part.layers[theirs] = rows(projectors.empty() ? student.config().width
                                                    : projectors.at(static_cast<std::size_t>(layer))->global_shape[0]);
    });
  for (std::size_t at = 0; at < nn::num_blocks; ++at)
    if (options.updates[at])
      for_each_asked(options.updates[at]->layers, layers, [&](std::int64_t theirs, std::int64_t) {
        part.updates[at][theirs] = rows(student.config().width);
      });
  if (options.routers)
    for_each_asked(options.routers->layers, layers, [&](std::int64_t theirs, std::int64_t) {
      part.routing[theirs] = {
          rows(student.config().moe.num_experts),
          options.routers->by_load ? Tensor::empty(step_.rank.memory(), DType::F64, {tokens}) : Tensor()};
    });
  return part;
}

void StageTeaching::run(int micro_batch) {
  const core::ExchangesOf scope("micro-batch", micro_batch, "teacher");
  Taught all = teach(step_, static_cast<std::size_t>(micro_batch));
  nn::PipelineComm& stages = step_.rank.pipeline();
  const int own = static_cast<int>(stages.rank()), chunks = pipeline_.schedule.num_chunks;
  const auto part = [&](int stage, int chunk) {
    return part_for(all, pipeline_.layers.at(static_cast<std::size_t>(pipeline_.schedule.virtual_stage(stage, chunk))));
  };
  for (int stage = 0; stage < own; ++stage)
    for (int chunk = 0; chunk < chunks; ++chunk)
      for_each_tensor(part(stage, chunk), [&](const Tensor& rows) {
        under_way_[micro_batch].push_back(stages.send(Kind::Taught, rows, stage));
      });
  for (int chunk = 0; chunk < chunks; ++chunk) taught_.emplace(std::pair(micro_batch, chunk), part(own, chunk));
  taught_.at({micro_batch, chunks - 1}).outputs = std::move(all.outputs);
}

Taught StageTeaching::take(int micro_batch, int chunk) {
  nn::PipelineComm& stages = step_.rank.pipeline();
  if (is_last_stage()) {
    const int end = std::min(micro_batch + static_cast<int>(stages.size()) + 1, pipeline_.schedule.num_micro_batches);
    for (; next_ < end; ++next_) run(next_);
  } else if (chunk == 0) {
    for (int own = 0; own < pipeline_.schedule.num_chunks; ++own) {
      const int place = pipeline_.schedule.virtual_stage(static_cast<int>(stages.rank()), own);
      Taught part =
          room_for(static_cast<std::size_t>(micro_batch), pipeline_.layers.at(static_cast<std::size_t>(place)));
      for_each_tensor(part, [&](const Tensor& rows) { stages.receive(Kind::Taught, rows, stages.size() - 1); });
      taught_.emplace(std::pair(micro_batch, own), std::move(part));
    }
  }
  return std::move(taught_.extract(std::pair(micro_batch, chunk)).mapped());
}

void StageTeaching::note_stream(int micro_batch, int chunk) {
  if (chunk == 0) under_way_.erase(micro_batch);
}

}  // namespace limbeck::launch
