#include "launch/plan/layout_search.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>
#include <span>

#include "launch/run/cut_sequences.h"
#include "parallel/axes/mesh.h"

namespace limbeck::launch {
namespace {

constexpr std::array<std::string_view, 4> shard_names = {"NOTHING", "OPTIMIZER", "GRADIENTS", "PARAMETERS"};

/// The sizes that an axis may have: divisors of `ranks` up to `most`.
std::vector<int> sizes(int ranks, std::int64_t most) {
  std::vector<int> found;
  for (int size = 1; size <= ranks && size <= most; ++size)
    if (ranks % size == 0) found.push_back(size);
  return found;
}

bool may_cut_sequences(const RunConfig& config, const nn::ModelConfig& student) {
  try {
    check_cut_sequences(config, student, {.rank = 0, .size = 2});
    return true;
  } catch (const core::UsageError&) {
    return false;
  }
}

/// Into how many parts the heads of all layers may be cut.
std::int64_t most_parts(const nn::ModelConfig& model) {
  const auto parts = model.has_attention() ? model.num_kv_heads : std::numeric_limits<std::int64_t>::max();
  return model.num_mamba_layers() > 0 ? std::min(parts, model.mamba.most_parts()) : parts;
}

/// "tp2ep4": dp is what is left.
std::string layout_text(int ranks, int cp, int tp, int ep) {
  std::string text;
  for (const auto& [name, size] : {std::pair("cp", cp), std::pair("tp", tp), std::pair("ep", ep)})
    if (size > 1) text += fmt::format("{}{}", name, size);
  return text.empty() ? fmt::format("dp{}", ranks) : text;
}

class Search {
 public:
  Search(const RunConfig& config, const PlannedModels& models, const PlannedWorld& world, const Cluster& cluster)
      : config_(config), models_(models), world_(world), cluster_(cluster) {}

  struct Candidate {
    std::string layout;
    bool sequence_parallel;
    bool operator==(const Candidate&) const = default;
  };

  std::vector<PlannedLayout> all_that_fit() const {
    std::vector<PlannedLayout> found;
    for (const Candidate& candidate : tried())
      if (auto layout = least_that_fits(candidate)) found.push_back(std::move(*layout));
    return found;
  }

  std::optional<PlannedLayout> smallest() const {
    std::optional<PlannedLayout> least;
    for (const Candidate& candidate : tried())
      for (const auto& [recompute, shard] : settings_of(candidate))
        if (PlannedLayout found = planned(candidate, recompute, shard);
            !least || found.plan.memory.held < least->plan.memory.held)
          least = std::move(found);
    return least;
  }

  /// That feed all ranks.
  std::vector<Candidate> candidates() const {
    const nn::ModelConfig& student = models_.student;
    const int ranks = world_.num_ranks;
    std::int64_t heads = most_parts(student);
    if (models_.teacher) heads = std::min(heads, most_parts(*models_.teacher));
    const std::int64_t most_tp = std::min(heads, cluster_.devices_a_node);
    std::int64_t most_cp = 1;
    if (may_cut_sequences(config_, student)) most_cp = std::max(most_cp, config_.data.sequence_length / least_piece);
    std::vector<Candidate> found;
    for (const int tp : sizes(ranks, most_tp))
      for (const int cp : sizes(ranks / tp, most_cp))
        for (const int ep : sizes(ranks, std::max<std::int64_t>(student.moe.num_experts, 1))) {
          const int dp = ranks / tp / cp;
          const bool feeds_all = config_.batch.sequences_per_step >= std::int64_t{dp} * config_.batch.micro_batches;
          if (feeds_all && cuts_experts(ep)) found.push_back({layout_text(ranks, cp, tp, ep), tp > 1});
        }
    return found;
  }

 private:
  static constexpr std::int64_t least_piece = 1024;  // tokens of a sequence on a rank, below which cp gains nothing

  static int at_least_one(int size) { return std::max(size, 1); }  // 0: a layout does not name the axis

  /// These, and the config's own.
  std::vector<Candidate> tried() const {
    std::vector<Candidate> all = candidates();
    if (is_automatic(config_)) return all;
    if (const Candidate own = own_candidate(); std::ranges::find(all, own) == all.end()) all.push_back(own);
    return all;
  }

  /// Named as the others are.
  Candidate own_candidate() const {
    const parallel::Layout own =
        config_.parallel.layout.empty() ? parallel::Layout{} : parallel::parse_layout(config_.parallel.layout);
    const bool sequence_parallel = config_.parallel.sequence_parallel && own.tp > 1;
    if (own.etp > 1 || own.pp > 1) return {own.text, sequence_parallel};
    return {layout_text(world_.num_ranks, at_least_one(own.cp), at_least_one(own.tp), at_least_one(own.ep)),
            sequence_parallel};
  }

  bool cuts_experts(int ep) const {
    const auto fits = [&](const nn::ModelConfig& model) { return ep == 1 || model.moe.num_experts % ep == 0; };
    return fits(models_.student) && (!models_.teacher || !config_.precision.sharded_teacher || fits(*models_.teacher));
  }

  RunConfig config_of(const Candidate& candidate, bool recompute, Shard shard) const {
    RunConfig config = config_;
    config.parallel.layout = candidate.layout;
    config.parallel.shard = shard;
    config.parallel.shard_ranks = 0;
    config.parallel.sequence_parallel = candidate.sequence_parallel;
    config.train.recompute = recompute;
    return config;
  }

  /// Without its time.
  PlannedLayout planned(const Candidate& candidate, bool recompute, Shard shard) const {
    const RunConfig config = config_of(candidate, recompute, shard);
    return {candidate.layout, shard, candidate.sequence_parallel, recompute, plan_rank(config, models_, world_)};
  }

  /// Recomputation and sharding; where the layout alone is to be found, from the config's own on.
  std::vector<std::pair<bool, Shard>> settings_of(const Candidate& candidate) const {
    const std::span<const Shard> shards = shards_of(candidate.layout);
    const bool is_given = is_automatic(config_);
    const Shard own = is_given ? std::min(config_.parallel.shard, shards.back()) : Shard::Nothing;
    std::vector<std::pair<bool, Shard>> all;
    for (const bool recompute : {false, true})
      for (const Shard shard : shards)
        if (shard >= own && (recompute || !(is_given && config_.train.recompute))) all.emplace_back(recompute, shard);
    return all;
  }

  /// Which of them takes the least depends on the model, for what is dealt is gathered again; what stays from step to
  /// step is least where all is dealt.
  std::optional<PlannedLayout> least_that_fits(const Candidate& candidate) const {
    const auto settings = settings_of(candidate);
    PlannedLayout last = planned(candidate, settings.back().first, settings.back().second);
    if (!cluster_.holds(last.plan.memory.kept())) return std::nullopt;
    for (const auto& setting : settings) {
      const auto& [recompute, shard] = setting;
      PlannedLayout found = setting == settings.back() ? std::move(last) : planned(candidate, recompute, shard);
      if (!cluster_.holds(found.plan.memory.held)) continue;
      found.time = step_time(config_of(candidate, recompute, shard), models_, found.plan, world_, cluster_);
      return found;
    }
    return std::nullopt;
  }

  /// Nothing is dealt where no ranks hold the same matrices.
  std::span<const Shard> shards_of(const std::string& layout) const {
    static constexpr std::array shards = {Shard::Nothing, Shard::Optimizer, Shard::Gradients, Shard::Parameters};
    const parallel::Layout sizes = parallel::parse_layout(layout);
    const int ranks = world_.num_ranks / at_least_one(sizes.pp);  // that hold the same layers
    const bool has_experts = models_.student.moe.num_experts > 0;
    const bool has_replicas =
        ranks > at_least_one(sizes.tp) || (has_experts && ranks > at_least_one(sizes.ep) * at_least_one(sizes.etp));
    const std::span<const Shard> all(shards);
    return has_replicas ? all : all.first(1);
  }

  const RunConfig& config_;
  const PlannedModels& models_;
  const PlannedWorld& world_;
  const Cluster& cluster_;
};

}  // namespace

std::string_view name_of(Shard shard) { return shard_names[static_cast<std::size_t>(shard)]; }

std::vector<std::string> PlannedLayout::sets() const {
  return {"parallel.layout=" + layout, fmt::format("parallel.shard={}", name_of(shard)), "parallel.shard_ranks=0",
          fmt::format("parallel.sequence_parallel={}", sequence_parallel),
          fmt::format("train.recompute={}", recompute)};
}

std::string PlannedLayout::text() const {
  std::string text = layout;
  if (shard != Shard::Nothing) text += fmt::format(", shard {}", name_of(shard));
  if (sequence_parallel) text += ", with sequence parallelism";
  if (recompute) text += ", with recompute";
  return text;
}

std::vector<PlannedLayout> best_layouts(const RunConfig& config, const PlannedModels& models, const PlannedWorld& world,
                                        const Cluster& cluster, std::size_t most) {
  std::vector<PlannedLayout> found = Search(config, models, world, cluster).all_that_fit();
  std::ranges::stable_sort(found, [](const PlannedLayout& a, const PlannedLayout& b) {
    return std::pair(a.time.seconds(), a.plan.memory.held) < std::pair(b.time.seconds(), b.plan.memory.held);
  });
  if (found.size() > most) found.erase(found.begin() + static_cast<std::ptrdiff_t>(most), found.end());
  return found;
}

bool feeds_any_layout(const RunConfig& config, const PlannedModels& models, const PlannedWorld& world,
                      const Cluster& cluster) {
  return !Search(config, models, world, cluster).candidates().empty();
}

std::optional<PlannedLayout> smallest_layout(const RunConfig& config, const PlannedModels& models,
                                             const PlannedWorld& world, const Cluster& cluster) {
  return Search(config, models, world, cluster).smallest();
}

}  // namespace limbeck::launch
