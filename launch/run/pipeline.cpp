#include "launch/run/pipeline.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <sstream>
#include <utility>

#include "core/counted.h"
#include "core/error.h"
#include "launch/run/same_everywhere.h"
#include "parallel/axes/nearest_layouts.h"
#include "parallel/pipeline/filled_gaps.h"

namespace limbeck::launch {

using core::fail_usage;

static_assert(static_cast<int>(PipelineKind::OneFOneB) == static_cast<int>(parallel::ScheduleKind::OneFOneB));
static_assert(static_cast<int>(PipelineKind::Interleaved) == static_cast<int>(parallel::ScheduleKind::Interleaved));
static_assert(static_cast<int>(PipelineKind::ZeroBubble) == static_cast<int>(parallel::ScheduleKind::ZeroBubble));

int Pipeline::stage_of(std::int64_t layer) const {
  const auto is_its = [=](const core::Slice& part) { return layer >= part.first && layer < part.first + part.count; };
  const auto at = std::ranges::find_if(layers, is_its);
  core::check(at != layers.end(), "pipeline: layer {} is on no stage", layer);
  return static_cast<int>(at - layers.begin()) % schedule.num_stages();
}

nn::ModelOptions Pipeline::part_of(nn::ModelOptions options, int stage) const {
  options.chunks.emplace();
  for (int chunk = 0; chunk < schedule.num_chunks; ++chunk)
    options.chunks->push_back(layers.at(static_cast<std::size_t>(schedule.virtual_stage(stage, chunk))));
  options.with_embedding = stage == 0;
  options.with_head = stage + 1 == schedule.num_stages();
  return options;
}

namespace {

std::vector<core::Slice> given_layers(const std::vector<std::int64_t>& counts, std::int64_t num_layers, int parts) {
  std::vector<core::Slice> layers;
  std::int64_t first = 0;
  for (const std::int64_t count : counts) {
    if (count < 0 || count > num_layers - first) break;
    layers.push_back({std::exchange(first, first + count), count});
  }
  if (layers.size() != counts.size() || std::ssize(counts) != parts || first != num_layers)
    fail_usage("parallel.stages is [{}], expected {} numbers, one of each stage's chunks, that add up to {}",
               fmt::join(counts, ", "), parts, core::counted(num_layers, "layer"));
  return layers;
}

/// Forward, of a token.
double flops_of_layer(const nn::ModelConfig& model, std::int64_t layer, std::int64_t sequence_length) {
  const auto of_layers = [&](std::int64_t count) {
    return nn::forward_flops_per_token(layers_alike(model, layer, count), sequence_length);
  };
  return of_layers(2) - of_layers(1);
}

std::vector<double> flops_of_layers(const nn::ModelConfig& model, std::int64_t sequence_length) {
  std::vector<double> costs;
  for (std::int64_t layer = 0; layer < model.num_layers; ++layer)
    costs.push_back(flops_of_layer(model, layer, sequence_length));
  return costs;
}

/// Of all that a stage's chunks take, by part.
PassParts costs_of_stage(const Pipeline& pipeline, int stage) {
  PassParts sum;
  for (int chunk = 0; chunk < pipeline.schedule.num_chunks; ++chunk) {
    const auto at = static_cast<std::size_t>(pipeline.schedule.virtual_stage(stage, chunk));
    sum.forward += pipeline.costs.forward[at];
    sum.input_gradient += pipeline.costs.input_gradient[at];
    sum.weight_gradient += pipeline.costs.weight_gradient[at];
  }
  return sum;
}

/// "0 to 3, 8 to 11", of its chunks.
std::string layers_of_stage(const Pipeline& pipeline, int stage) {
  std::vector<std::string> layers;
  for (int chunk = 0; chunk < pipeline.schedule.num_chunks; ++chunk) {
    const core::Slice& part = pipeline.layers[static_cast<std::size_t>(pipeline.schedule.virtual_stage(stage, chunk))];
    layers.push_back(part.count == 0   ? "none"
                     : part.count == 1 ? fmt::format("{}", part.first)
                                       : fmt::format("{} to {}", part.first, part.first + part.count - 1));
  }
  return fmt::format("{}", fmt::join(layers, ", "));
}

}  // namespace

Pipeline pipeline_of(const RunConfig& config, const nn::ModelConfig& model, int num_stages, const StagePasses& passes) {
  const ParallelConfig& c = config.parallel;
  const double beside_head = passes.beside_head;
  const bool is_cut = num_stages > 1;
  const int chunks = is_cut ? static_cast<int>(c.chunks) : 1, parts = num_stages * chunks;
  const auto kind = is_cut ? static_cast<parallel::ScheduleKind>(c.schedule) : parallel::ScheduleKind::OneFOneB;
  const std::vector<double> costs = flops_of_layers(model, config.data.sequence_length);
  const double of_width = 2.0 * static_cast<double>(model.width),
               one_head = static_cast<double>(model.vocabulary) * of_width;
  // Each layer that predicts reads the stream beside an embedding, and has a head's products of its own.
  const double further = one_head + flops_of_layer(model, model.num_layers, config.data.sequence_length) +
                         2 * static_cast<double>(model.width) * of_width;
  const double head = one_head + static_cast<double>(model.num_predict_layers) * further;
  const double last = head + beside_head / 3;  // of layers and head a backward comes, of twice a forward
  Pipeline pipeline{
      .layers = is_cut && !c.stages.empty() ? given_layers(c.stages, model.num_layers, parts)
                                            : parallel::split_by_cost(costs, 0, last, parts),
      .schedule = parallel::make_schedule(kind, num_stages, chunks, static_cast<int>(config.batch.micro_batches)),
      .costs = {}};
  if (is_cut) {
    pipeline.costs = costs_of_stages(config, model, pipeline.layers, passes);
    pipeline.schedule = parallel::with_gaps_filled(std::move(pipeline.schedule), pipeline.costs);
  }
  parallel::check_schedule(pipeline.schedule);
  return pipeline;
}

Pipeline pipeline_without_head(const nn::ModelConfig& model, std::int64_t sequence_length, int num_stages) {
  return {.layers = parallel::split_by_cost(flops_of_layers(model, sequence_length), 0, 0, num_stages),
          .schedule = parallel::make_schedule(parallel::ScheduleKind::OneFOneB, num_stages, 1, 1),
          .costs = {}};
}

void check_teacher_layout(const ParallelConfig& config, int num_ranks) {
  if (config.teacher_ranks > 0 || config.teacher_layout.empty()) return;
  if (const std::string fault = parallel::world_fault(parallel::parse_layout(config.teacher_layout), num_ranks);
      !fault.empty())
    fail_usage("parallel.teacher_layout: {}", fault);
}

void check_teacher_cut(const RunConfig& config, const nn::ModelConfig& teacher, int num_students) {
  if (config.parallel.teacher_layout.empty()) return;
  const parallel::Layout layout = parallel::parse_layout(config.parallel.teacher_layout);
  const bool has_heads = teacher.num_mamba_layers() > 0;
  const std::int64_t heads = teacher.mamba.most_parts();
  const auto takes = [&](const parallel::Layout& l) {
    return l.pp <= teacher.num_layers && (!has_heads || l.tp <= heads);
  };
  if (takes(layout)) return;
  const std::int64_t own = config.parallel.teacher_ranks;
  const int num_ranks = own > 0 ? static_cast<int>(own) : num_students;
  const std::string fault =
      layout.pp > teacher.num_layers
          ? fmt::format("{}, expected at most the teacher's {}", core::counted(layout.pp, "stage"),
                        core::counted(teacher.num_layers, "layer"))
          : fmt::format("the teacher's Mamba-2 layers are cut over {} ranks (tp), expected at most {}, their {}",
                        layout.tp, heads, teacher.mamba.num_groups == 1 ? "heads" : "groups of heads");
  fail_usage("parallel.teacher_layout is {}: {}; {} can be {}", layout.text, fault, core::counted(num_ranks, "rank"),
             parallel::nearest_layouts(layout, num_ranks, takes));
}

void check_pipeline(const RunConfig& config, const nn::ModelConfig& student, int num_stages) {
  if (num_stages == 1) return;
  if (config.parallel.chunks > 1 && config.parallel.schedule == PipelineKind::OneFOneB)
    fail_usage("parallel.chunks is {} with parallel.schedule ONE_F_ONE_B, expected INTERLEAVED, ZERO_BUBBLE, or 1",
               config.parallel.chunks);
  if (const std::int64_t parts = num_stages * config.parallel.chunks; parts > student.num_layers)
    fail_usage("parallel.layout is {}: {} of {}, expected at most the model's {}", config.parallel.layout,
               core::counted(num_stages, "stage"), core::counted(config.parallel.chunks, "chunk"),
               core::counted(student.num_layers, "layer"));
}

std::vector<std::string> to_lines(const Pipeline& pipeline) {
  std::vector<std::string> lines;
  const parallel::PipelineSchedule& schedule = pipeline.schedule;
  const std::vector<int> peaks = parallel::peak_activations(schedule);
  const parallel::PipelineTimes times = parallel::simulate(schedule, pipeline.costs);
  for (int stage = 0; stage < schedule.num_stages(); ++stage) {
    const auto at = static_cast<std::size_t>(stage);
    const auto [forward, input, weight] = costs_of_stage(pipeline, stage);
    const double hundredth = (forward + input + weight) / 100;
    lines.push_back(fmt::format(
        "stage {}: layers {}; holds up to {} of activations, waits {:.1f} % of a step's time by what its layers cost: "
        "{:.0f} % forward, {:.0f} % for gradients of inputs, {:.0f} % of weights",
        stage, layers_of_stage(pipeline, stage), core::counted(peaks[at], "chunk"), 100 * times.bubble[at],
        forward / hundredth, input / hundredth, weight / hundredth));
  }
  std::istringstream picture(parallel::picture(schedule, pipeline.costs));
  for (std::string line; std::getline(picture, line);) lines.push_back(line);
  return lines;
}

void check_same_pipeline(core::Comm& world, const Pipeline& pipeline, const std::string& name) {
  const parallel::PipelineSchedule& schedule = pipeline.schedule;
  std::string text = name + " {\n";
  for (int stage = 0; stage < schedule.num_stages(); ++stage) {
    text += fmt::format("  stage {} {{\n    layers: {}\n", stage, layers_of_stage(pipeline, stage));
    int number = 0;
    for (const parallel::PipelineAction& action : schedule.stages[static_cast<std::size_t>(stage)])
      text += fmt::format("    action {}: {}\n", number++, parallel::name_of(action, schedule.num_chunks));
    text += "  }\n";
  }
  check_same_everywhere(world, text + "}\n");
}

}  // namespace limbeck::launch
