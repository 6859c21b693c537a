#include "launch/plan/layout_search.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <iterator>
#include <limits>
#include <optional>
#include <span>
#include <utility>

#include "launch/run/cut_sequences.h"
#include "parallel/axes/check_sharding.h"
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

/// "pp2tp2ep4": dp is what is left.
std::string layout_text(int ranks, int pp, int cp, int tp, int ep, int etp) {
  std::string text;
  for (const auto& [name, size] : {std::pair("pp", pp), {"cp", cp}, {"tp", tp}, {"ep", ep}, {"etp", etp}})
    if (size > 1) text += fmt::format("{}{}", name, size);
  return text.empty() ? fmt::format("dp{}", ranks) : text;
}

class Search {
 public:
  Search(const RunConfig& config, const PlannedModels& models, const PlannedWorld& world, const Cluster& cluster)
      : config_(config), models_(models), world_(world), cluster_(cluster), teachers_(models, world) {}

  /// Of those that all_that_fit finds, in the order of their times, the first few that share something: the same within
  /// nodes, between which nothing goes then but sums of shares, where that fits and is faster.
  void share_within_nodes(std::vector<PlannedLayout>& found) const {
    std::size_t tried = 0;
    for (PlannedLayout& layout : found) {
      if (tried == most_within_nodes) return;
      if (!may_share_within_nodes(layout)) continue;
      ++tried;
      PlannedLayout within = layout;
      within.shard_ranks = cluster_.devices_a_node;
      within = planned(std::move(within));
      if (!cluster_.holds(within.plan.most_held())) continue;
      within.time = time_of(within);
      if (within.time.seconds() < layout.time.seconds()) layout = std::move(within);
    }
  }

  std::vector<PlannedLayout> all_that_fit() const {
    std::vector<PlannedLayout> found;
    for (const Candidate& candidate : tried())
      if (may_fit(candidate))
        if (auto layout = least_that_fits(candidate)) found.push_back(std::move(*layout));
    const auto is_new = [&](const PlannedLayout& layout) {
      return std::ranges::none_of(found, [&](const PlannedLayout& other) { return other.sets() == layout.sets(); });
    };
    double fewer_took = std::numeric_limits<double>::infinity();
    for (const int stages : numbers_of_stages()) {
      std::vector<PlannedLayout> fit = fastest_that_fit(stages);
      if (fit.empty()) continue;
      double takes = std::numeric_limits<double>::infinity();
      for (PlannedLayout& layout : fit) {
        takes = std::min(takes, layout.time.seconds());
        if (is_new(layout)) found.push_back(std::move(layout));
      }
      if (takes > std::exchange(fewer_took, takes)) break;
    }
    return found;
  }

  std::optional<PlannedLayout> smallest() const {
    std::vector<Candidate> all = tried();
    if (auto staged = smallest_of_stages()) all.push_back(std::move(*staged));
    std::optional<PlannedLayout> least;
    for (const Candidate& candidate : all)
      for (const PlannedLayout& setting : settings_of(candidate))
        if (PlannedLayout found = planned(setting); !least || found.plan.most_held() < least->plan.most_held())
          least = std::move(found);
    return least;
  }

  /// Whether there are any beside the config's own.
  bool has_any() const {
    return !candidates(1).empty() ||
           std::ranges::any_of(numbers_of_stages(), [this](int stages) { return !candidates(stages).empty(); });
  }

 private:
  static constexpr std::int64_t least_piece = 1024;        // tokens of a sequence a rank, below which cp gains nothing
  static constexpr std::size_t most_of_stages = 2;         // that are planned of each number of them
  static constexpr std::size_t most_within_nodes = 4;      // that are planned once more, to share within nodes
  static constexpr std::int64_t least_expert_width = 512;  // on a rank, below which products of etp are too narrow
  static constexpr double experts_part = 0.25;             // of a device's memory, above which etp is tried

  struct Candidate {
    std::string layout;
    bool sequence_parallel = false;
    std::vector<StageWork> works = {};  // with pp, the first that fits is taken
    bool may_share = true;              // whether the run takes it with what ranks share dealt among them
    bool operator==(const Candidate&) const = default;
  };

  static int at_least_one(int size) { return std::max(size, 1); }  // 0: a layout does not name the axis

  /// Of neighbours none of which are on two nodes.
  std::vector<int> sizes_within_nodes(int ranks, std::int64_t most) const {
    std::vector<int> found = sizes(ranks, std::min(most, cluster_.devices_a_node));
    if (world_.num_ranks > cluster_.devices_a_node)
      std::erase_if(found, [this](int size) { return cluster_.devices_a_node % size != 0; });
    return found;
  }

  std::vector<int> numbers_of_stages() const {
    std::vector<int> numbers = sizes(world_.num_ranks, models_.student.num_layers);
    numbers.erase(numbers.begin());  // one
    return numbers;
  }

  /// That feed all ranks, of so many stages.
  std::vector<Candidate> candidates(int stages) const {
    const nn::ModelConfig& student = models_.student;
    const int ranks = world_.num_ranks / stages;
    std::int64_t heads = most_parts(student);
    if (models_.teacher) heads = std::min(heads, most_parts(*models_.teacher));
    std::int64_t most_cp = 1;
    if (may_cut_sequences(config_, student)) most_cp = std::max(most_cp, config_.data.sequence_length / least_piece);
    const std::vector<int> eps = sizes(ranks, std::max<std::int64_t>(student.moe.num_experts, 1));
    const int cut = cut_of_experts(stages, eps.back());
    std::vector<Candidate> found;
    for (const int tp : sizes_within_nodes(ranks, heads))
      for (const int cp : sizes(ranks / tp, most_cp)) {
        const int dp = ranks / tp / cp;
        const bool feeds_all = config_.batch.sequences_per_step >= std::int64_t{dp} * config_.batch.micro_batches;
        if (!feeds_all) continue;
        const auto add = [&](int ep, int etp) {
          found.push_back(
              {.layout = layout_text(world_.num_ranks, stages, cp, tp, ep, etp), .sequence_parallel = tp > 1});
        };
        for (const int ep : eps) add(ep, 1);
        if (cut > 1) add(eps.back(), cut);
      }
    if (stages > 1)
      for (Candidate& candidate : found) candidate.works = {StageWork{.micro_batches = config_.batch.micro_batches}};
    for (Candidate& candidate : found) candidate.may_share = takes_shares(candidate);
    std::erase_if(found, [this](const Candidate& candidate) { return settings_of(candidate).empty(); });
    return found;
  }

  /// Over how many ranks each expert is cut beside so large an ep: over as few as leave a rank, of values, gradients
  /// and two moments of experts, no more than a part of its memory, or the most where none do; one where it has no
  /// more, or the run refuses etp.
  int cut_of_experts(int stages, int ep) const {
    const nn::MoeConfig& moe = models_.student.moe;
    if (moe.num_experts == 0 || config_.adapters || config_.parallel.expert_replicas > 0 ||
        config_.precision.quantised_weights != QuantisedWeights::None)  // whose blocks may not be cut
      return 1;
    const std::int64_t fullest = (moe.num_experts + ep - 1) / ep;
    const double values = nn::forward_flops_per_expert(models_.student) / 2 * static_cast<double>(fullest) / stages,
                 kept = 4 * values * static_cast<double>(core::bytes_of(config_.precision.master, 1));
    int cut = 1;
    for (const int etp : sizes_within_nodes(world_.num_ranks / stages / ep, moe.expert_width / least_expert_width)) {
      cut = etp;
      if (kept / cut <= experts_part * cluster_.memory_bytes()) break;
    }
    return cut;
  }

  /// Those of one stage, and the config's own.
  std::vector<Candidate> tried() const {
    std::vector<Candidate> all = candidates(1);
    if (is_automatic(config_)) return all;
    Candidate own = own_candidate();
    if (std::ranges::find(all, own) == all.end()) all.push_back(std::move(own));
    return all;
  }

  /// Named as the others are.
  Candidate own_candidate() const {
    const parallel::Layout own =
        config_.parallel.layout.empty() ? parallel::Layout{} : parallel::parse_layout(config_.parallel.layout);
    Candidate candidate{.layout = layout_text(world_.num_ranks, own.pp, own.cp, own.tp, own.ep, own.etp),
                        .sequence_parallel = config_.parallel.sequence_parallel && own.tp > 1};
    if (own.pp > 1) candidate.works = {work_of(config_)};
    candidate.may_share = takes_shares(candidate);
    return candidate;
  }

  /// Among as many neighbours as the config says where the layout is to be found, else among all.
  std::int64_t neighbours() const { return is_automatic(config_) ? config_.parallel.shard_ranks : 0; }

  /// It refuses one whose experts are dealt anew with moments in 8 bits that are shared within one
  /// (check_experts_may_move): among more ranks than some have experts of their own; and neighbours that are not as
  /// many everywhere.
  bool takes_shares(const Candidate& candidate) const {
    if (!are_neighbours(candidate.layout, neighbours())) return false;
    if (config_.parallel.deal_experts_every_steps == 0 || !config_.optimizer.eight_bit_state) return true;
    const parallel::Layout sizes = parallel::parse_layout(candidate.layout);
    const int ep = at_least_one(sizes.ep),
              edp = world_.num_ranks / (at_least_one(sizes.pp) * ep * at_least_one(sizes.etp));
    if (ep == 1 || edp <= std::max<std::int64_t>(models_.student.moe.num_experts / ep, 1)) return true;
    PlannedLayout shared{candidate.layout, Shard::Optimizer, candidate.sequence_parallel};
    shared.shard_ranks = neighbours();
    if (!candidate.works.empty()) shared.work = candidate.works.front();
    try {
      check_begins(under(config_, shared), models_, world_);
      return true;
    } catch (const core::UsageError&) {
      return false;
    }
  }

  bool are_neighbours(const std::string& layout, std::int64_t number) const {
    return parallel::sharding_fault(parallel::parse_layout(layout), world_.num_ranks, static_cast<int>(number)).empty();
  }
  bool may_share_within_nodes(const PlannedLayout& layout) const {
    const auto goes_between = [this](const parallel::ExchangeCount& t) {
      return is_of_gradients(t) && &cluster_.link_of(t.ranks) == &cluster_.between;
    };
    return layout.shard > Shard::Nothing && layout.shard_ranks == 0 && cluster_.devices_a_node > 1 &&
           std::ranges::any_of(layout.plan.traffic, goes_between) &&
           are_neighbours(layout.layout, cluster_.devices_a_node);
  }

  /// Without its time.
  PlannedLayout planned(PlannedLayout layout) const {
    layout.plan = plan_rank(under(config_, layout), models_, world_, teachers_);
    return layout;
  }
  StepTime time_of(const PlannedLayout& planned) const {
    return step_time(under(config_, planned), models_, planned.plan, world_, cluster_);
  }

  /// Recomputation and sharding that the run takes; where the layout alone is to be found, from the config's own on.
  std::vector<PlannedLayout> settings_of(const Candidate& candidate) const {
    const std::span<const Shard> shards = shards_of(candidate.layout);
    const bool is_given = is_automatic(config_);
    const Shard own = is_given ? std::min(config_.parallel.shard, shards.back()) : Shard::Nothing;
    std::vector<PlannedLayout> all;
    for (const bool recompute : {false, true})
      for (const Shard shard : shards) {
        if (shard < own || (!recompute && is_given && config_.train.recompute)) continue;
        if (shard > Shard::Nothing && !candidate.may_share) continue;
        PlannedLayout setting{candidate.layout, shard, candidate.sequence_parallel, recompute};
        if (shard > Shard::Nothing) setting.shard_ranks = neighbours();
        if (candidate.works.empty()) all.push_back(setting);
        for (const StageWork& work : candidate.works) all.emplace_back(setting).work = work;
      }
    return all;
  }

  /// What stays from step to step is least where all is dealt.
  std::int64_t least_kept(const Candidate& candidate) const {
    return plan_state(under(config_, settings_of(candidate).back()), models_, world_).kept();
  }
  bool may_fit(const Candidate& candidate) const { return cluster_.holds(least_kept(candidate)); }

  /// Which setting takes the least depends on the model, for what is dealt is gathered again.
  std::optional<PlannedLayout> least_that_fits(const Candidate& candidate) const {
    for (const PlannedLayout& setting : settings_of(candidate)) {
      PlannedLayout found = planned(setting);
      if (!cluster_.holds(found.plan.most_held())) continue;
      found.time = time_of(found);
      return found;
    }
    return std::nullopt;
  }

  /// Of so many stages.
  std::vector<PlannedLayout> fastest_that_fit(int stages) const {
    std::vector<std::pair<double, Candidate>> estimated;
    for (Candidate& candidate : candidates(stages)) {
      if (!may_fit(candidate)) continue;
      const RunConfig config = under(config_, settings_of(candidate).front());
      WorkEstimate fastest = fastest_work(config, models_, world_, cluster_, teachers_);
      candidate.works = {std::move(fastest.work), smallest_work(config, world_.num_ranks)};
      estimated.emplace_back(fastest.seconds, std::move(candidate));
    }
    std::ranges::stable_sort(estimated, {}, &std::pair<double, Candidate>::first);
    std::vector<PlannedLayout> found;
    for (const auto& [seconds, candidate] : estimated) {
      if (found.size() == most_of_stages) break;
      if (auto layout = least_that_fits(candidate)) found.push_back(std::move(*layout));
    }
    return found;
  }

  /// Of any number of stages, what keeps least.
  std::optional<Candidate> smallest_of_stages() const {
    std::optional<Candidate> smallest;
    std::int64_t least = 0;
    for (const int stages : numbers_of_stages())
      for (Candidate& candidate : candidates(stages))
        if (const std::int64_t kept = least_kept(candidate); !smallest || kept < least) {
          least = kept;
          smallest = std::move(candidate);
        }
    if (smallest)
      smallest->works = {smallest_work(under(config_, settings_of(*smallest).front()), world_.num_ranks)};
    return smallest;
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
  mutable TeacherPlans teachers_;
};

}  // namespace

std::string_view name_of(Shard shard) { return shard_names[static_cast<std::size_t>(shard)]; }

std::string sharing_text(const PlannedLayout& layout) {
  std::string text(name_of(layout.shard));
  return layout.shard_ranks > 0 ? text + fmt::format(" within {} ranks", layout.shard_ranks) : text;
}

std::vector<std::string> PlannedLayout::sets() const {
  std::vector<std::string> sets = {"parallel.layout=" + layout, fmt::format("parallel.shard={}", name_of(shard)),
                                   fmt::format("parallel.shard_ranks={}", shard_ranks),
                                   fmt::format("parallel.sequence_parallel={}", sequence_parallel),
                                   fmt::format("train.recompute={}", recompute)};
  if (work) std::ranges::copy(work->sets(), std::back_inserter(sets));
  return sets;
}

std::string PlannedLayout::text() const {
  std::string text = layout;
  if (work) text += ", " + work->text();
  if (shard != Shard::Nothing) text += ", shard " + sharing_text(*this);
  if (sequence_parallel) text += ", with sequence parallelism";
  if (recompute) text += ", with recompute";
  return text;
}

RunConfig under(RunConfig config, const PlannedLayout& layout) {
  config.parallel.layout = layout.layout;
  config.parallel.shard = layout.shard;
  config.parallel.shard_ranks = layout.shard_ranks;
  config.parallel.sequence_parallel = layout.sequence_parallel;
  config.train.recompute = layout.recompute;
  return layout.work ? with_work(std::move(config), *layout.work) : config;
}

std::vector<PlannedLayout> best_layouts(const RunConfig& config, const PlannedModels& models, const PlannedWorld& world,
                                        const Cluster& cluster, std::size_t most) {
  if (is_automatic(config))
    if (const auto fault = parallel::sharding_fault({}, world.num_ranks, static_cast<int>(config.parallel.shard_ranks));
        !fault.empty())
      core::fail_usage("{}", fault);
  const Search search(config, models, world, cluster);
  const auto key = [](const PlannedLayout& l) { return std::pair(l.time.seconds(), l.plan.memory.held); };
  std::vector<PlannedLayout> found = search.all_that_fit();
  std::ranges::stable_sort(found, {}, key);
  search.share_within_nodes(found);
  std::ranges::stable_sort(found, {}, key);
  if (found.size() > most) found.erase(found.begin() + static_cast<std::ptrdiff_t>(most), found.end());
  return found;
}

bool feeds_any_layout(const RunConfig& config, const PlannedModels& models, const PlannedWorld& world,
                      const Cluster& cluster) {
  return Search(config, models, world, cluster).has_any();
}

std::optional<PlannedLayout> smallest_layout(const RunConfig& config, const PlannedModels& models,
                                             const PlannedWorld& world, const Cluster& cluster) {
  return Search(config, models, world, cluster).smallest();
}

}  // namespace limbeck::launch
