#include "launch/plan/imagined_models.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "core/random.h"
#include "data/models/gguf_choice.h"
#include "launch/run/quantised_weights.h"
#include "launch/run/run_settings.h"
#include "parallel/axes/expert_comm.h"

namespace limbeck::launch {

using core::Tensor;

namespace {

void take_kept(nn::Transformer& teacher, const PrecisionConfig& precision) {
  std::map<std::string, data::GgufKept> kept;
  if (precision.quantised_teacher != QuantisedWeights::None)
    kept = data::gguf_kept(teacher.config(), name_of(precision.quantised_teacher).dtype, "precision.quantised_teacher");
  for (core::Parameter* p : teacher.parameters()) {
    if (!p->is_matrix()) continue;
    const core::MemoryPtr memory = p->value.memory();
    const core::Shape shape = p->value.shape();
    core::DType dtype = precision.frozen_storage;
    if (const auto own = kept.find(p->name); own != kept.end() && !own->second.is_transposed) {
      const auto last = static_cast<std::size_t>(shape.rank() - 1);
      const std::int64_t block = core::info(own->second.dtype).block_elements;
      if (shape[shape.rank() - 1] % block == 0 && p->offset()[last] % block == 0) dtype = own->second.dtype;
    }
    if (precision.mapped_teacher && kept.empty() && memory == teacher.memory())  // lies in the file's pages
      p->value =
          Tensor(std::make_shared<core::Storage>(memory, core::bytes_of(dtype, shape.numel()), memory.get(), memory), 0,
                 dtype, shape);
    else
      p->value = Tensor::empty(memory, dtype, shape);
  }
}

}  // namespace

StepText imagined_text(const RunConfig& config, std::int64_t num_tokens) {
  const std::int64_t length = config.data.sequence_length, count = config.batch.sequences_per_step;
  StepText text;
  text.num_sequences = count;
  text.num_tokens = count * length;
  text.num_targets = count * (length - 1);
  if (config.objective.has_pairs()) text.num_pairs = count;
  text.fetch = [length, num_tokens](std::int64_t first, std::int64_t n) {
    const core::RandomStream random(1, static_cast<std::uint64_t>(first), "tokens");
    const auto tokens = static_cast<std::size_t>(n * length);
    data::TokenBatch batch{.num_sequences = n,
                           .sequence_length = length,
                           .tokens = std::vector<std::int32_t>(tokens),
                           .targets = std::vector<std::int32_t>(tokens),
                           .positions = std::vector<std::int32_t>(tokens),
                           .documents = std::vector<std::int32_t>(tokens)};
    for (std::size_t t = 0; t < tokens; ++t) {
      batch.positions[t] = static_cast<std::int32_t>(static_cast<std::int64_t>(t) % length);
      batch.tokens[t] = static_cast<std::int32_t>(random.below(t, static_cast<std::uint64_t>(num_tokens)));
      batch.targets[t] = batch.positions[t] + 1 == length ? -1 : batch.tokens[t];
    }
    return batch;
  };
  return text;
}

nn::ModelOptions among_ranks(const Rank& rank, nn::ModelOptions options, const RunConfig& config,
                             const PlannedModels& models, const ExpertShares& shares) {
  const parallel::Mesh& mesh = rank.mesh();
  if (options.comms.expert != rank.comms().expert || mesh.experts_group()->size() == 1) return options;
  options.comms.expert = parallel::make_expert_comm(
      mesh.experts_group(), mesh.etp().size, mesh.expert_nodes(),
      [&](const std::vector<bool>& experts, std::int64_t choices) {
        const nn::MoeConfig& moe = models.student.moe;
        if (config.routing.expert_choice && choices == moe.num_experts && std::ssize(experts) == choices) {
          // Each takes its part of the tokens, whatever the others take.
          const double each = experts_a_token(config.routing, moe) / static_cast<double>(choices);
          return 1 - std::pow(1 - each, static_cast<double>(std::ranges::count(experts, true)));
        }
        const auto known = shares.find(std::ssize(experts));
        return share_of_tokens(known == shares.end() ? std::vector<double>() : known->second, experts, choices);
      });
  return options;
}

std::unique_ptr<nn::Transformer> imagined_teacher(const Rank& rank, const nn::ModelOptions& options,
                                                  const RunConfig& config, const PlannedModels& models,
                                                  const ExpertShares& shares) {
  auto teacher = std::make_unique<nn::Transformer>(*models.teacher, among_ranks(rank, options, config, models, shares));
  if (config.precision.mapped_teacher || config.precision.quantised_teacher != QuantisedWeights::None)
    take_kept(*teacher, config.precision);
  teacher->end_filling();
  return teacher;
}

}  // namespace limbeck::launch
