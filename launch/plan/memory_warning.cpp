#include "launch/plan/memory_warning.h"

#include <fmt/format.h>

#include "launch/plan/automatic_layout.h"

namespace limbeck::launch {
namespace {

constexpr std::int64_t little = 20;  // a state of less than one part in so many is no reason to plan steps

double in_gib(std::int64_t bytes) { return static_cast<double>(bytes) / (1LL << 30); }

}  // namespace

std::optional<std::string> memory_warning(const RunConfig& config, const PlannedModels& models,
                                          const PlannedWorld& world, std::int64_t may_take) {
  if (not_planned(config) != nullptr) return std::nullopt;
  try {
    const std::int64_t state = plan_state(config, models, world).kept();
    if (state < may_take / little) return std::nullopt;
    const std::int64_t held = plan_rank(config, models, world).memory.held;
    if (held <= may_take) return std::nullopt;
    return fmt::format(
        "a rank is planned to take {:.3f} GiB of memory, {:.3f} of them before its first step, and may take {:.3f}, its "
        "part of nine tenths of what is available: where memory ends, the system ends a rank and says nothing. limbeck "
        "plan says what takes it; parallel.shard, train.recompute, more batch.micro_batches and other layouts take less",
        in_gib(held), in_gib(state), in_gib(may_take));
  } catch (const core::Error&) {
    return std::nullopt;  // what is wrong with the config the run says itself
  }
}

void warn_of_memory(const Session& session, const nn::ModelConfig& student, const nn::ModelConfig* teacher,
                    const Log& log) {
  const RunConfig& config = session.config;
  Rank& rank = session.rank;
  const int ranks_a_machine = most_ranks_a_machine(rank.mesh().world());
  const std::int64_t may_take = least_over_ranks(rank.world(), known_memory_of_rank_here(config, ranks_a_machine));
  if (may_take == 0) return;
  PlannedModels models{.student = student, .tokens = session.tokenizer->vocabulary_size()};
  if (teacher != nullptr) {
    models.teacher = *teacher;
    models.teacher->vocabulary = student.vocabulary;  // logits stand beside logits
  }
  const int num_ranks = rank.world().size();
  const PlannedWorld world{.num_ranks = num_ranks,
                           .device = usual_cluster(config, ranks_a_machine, num_ranks, may_take).imagined(),
                           .ranks_a_node = ranks_a_machine};
  on_first_rank(rank, [&] {
    if (const auto warning = memory_warning(config, models, world, may_take)) log->warn("{}", *warning);
  });
}

}  // namespace limbeck::launch
