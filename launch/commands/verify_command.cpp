// `limbeck verify`: whether a config's numbers are the same under every layout.

#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <optional>

#include "core/counted.h"
#include "data/files/json_text.h"
#include "launch/commands/commands.h"
#include "launch/console/streams.h"
#include "launch/report/verification_table.h"
#include "launch/run/pipeline.h"
#include "launch/run/rank.h"
#include "launch/run/run_config.h"
#include "launch/run/same_everywhere.h"
#include "launch/run/threads.h"
#include "launch/run/verified_layouts.h"
#include "parallel/axes/mesh.h"
#include "parallel/threads/run_ranks.h"

namespace limbeck::launch {
namespace {

using World = std::shared_ptr<parallel::WorldComm>;

/// Of ranks that are threads where nothing else says how many there are.
constexpr int usual_ranks = 4;

class Verifier {
 public:
  Verifier(const VerifyOptions& options, const World& world)
      : options_(options),
        world_(world),
        is_threaded_(world->size() == 1),
        of_layouts_(options.verbosity == Verbosity::Verbose ? Verbosity::Verbose : Verbosity::Quiet),
        log_(make_log(world->rank(), options.verbosity)) {
    if (!is_threaded_ && options.ranks)
      core::fail_usage("verify: --ranks is given, expected none under mpirun: {} are running", world->size());
    ranks_ = is_threaded_ ? options.ranks : world->size();
  }

  Verification run() {
    const bool is_auto = options_.layouts == std::vector<std::string>{"auto"};
    if (is_auto && !ranks_) ranks_ = usual_ranks;
    std::vector<LayoutItem> items;
    if (!is_auto)
      for (const std::string& text : options_.layouts) items.push_back(parse_layout_item(text));
    for (const LayoutItem& item : items) {  // what cannot be is said before anything is made
      const RunConfig config = config_of(item);
      if (ranks_)
        parallel::check_world(parallel::parse_layout(item.layout),
                              *ranks_ - static_cast<int>(config.parallel.teacher_ranks));
      check_teacher_layout(config.parallel, ranks_.value_or(ranks_of(config)));
    }
    const RunConfig config = config_of({});
    Verification result{.precision = options_.is_float64 ? core::DType::F64 : core::DType::F32};
    result.tolerance = options_.tolerance.value_or(usual_tolerance(result.precision));
    log_->info("one rank: {}", core::counted(options_.steps, "step"));
    const VerifiedSteps reference = make_reference(config);
    result.num_steps = std::ssize(reference.steps);
    result.num_tokens = reference.num_tokens;
    if (is_auto)
      items = covering_layouts(*ranks_, config, reference.model, [&](const LayoutItem& item) { return may_be(item); });
    for (const LayoutItem& item : items) {
      result.layouts.push_back(verified(item, reference));
      const VerifiedLayout& layout = result.layouts.back();
      log_->info("{} on {}: {}", item.text, core::counted(layout.num_ranks, "rank"),
                 layout.differences.within(result.tolerance) ? "ok" : "differs");
    }
    return result;
  }

 private:
  /// With the item's settings; of none that of the reference.
  RunConfig config_of(const LayoutItem& item) const {
    std::vector<std::string> sets = options_.sets;
    sets.emplace_back("train.cuda_graph=false");  // is of one rank, and changes no number
    RunConfig config =
        load_given_config(options_.configs, item.layout.empty() ? std::move(sets) : settings_of(std::move(sets), item));
    if (options_.threads) config.train.threads = *options_.threads;
    name_reference(config);
    config.teacher && !config.objective.preference ? check_for_distill(config) : check_for_train(config);
    config = exact(config, options_.is_float64 ? core::DType::F64 : core::DType::F32);
    if (is_threaded_ && config.train.device == DeviceKind::Auto) config.train.device = DeviceKind::Cpu;
    return config;
  }

  /// Whether the config has nothing against an item's fields.
  bool may_be(const LayoutItem& item) const {
    try {
      config_of(item);
      return true;
    } catch (const core::UsageError&) {
      return false;
    }
  }

  /// Every process makes it, with the same bits; the first of them first, for it may tokenize the text.
  VerifiedSteps make_reference(const RunConfig& config) const {
    VerifiedSteps reference;
    const auto make = [&](const Log& log) { reference = steps_on_one_rank(config, options_.steps, log); };
    if (is_threaded_) {
      make(log_);
      return reference;
    }
    Rank rank(world_, fmt::format("dp{}", world_->size()), 1);
    on_first_rank(rank, [&] { make(log_); });
    on_every_rank(rank, [&] {
      if (!rank.is_first()) make(log_);
    });
    return reference;
  }

  VerifiedLayout verified(const LayoutItem& item, const VerifiedSteps& reference) const {
    RunConfig config = config_of(item);
    VerifiedLayout result{.layout = item.text, .num_ranks = ranks_.value_or(ranks_of(config))};
    if (!is_threaded_) {
      if (auto found = differences_from(reference, world_, config, make_log(world_->rank(), of_layouts_)))
        result.differences = *found;
      return result;
    }
    if (config.train.threads == 0) config.train.threads = std::max(1, threads_of_rank(0) / result.num_ranks);
    try {
      parallel::run_ranks(
          result.num_ranks,
          [&](const World& world) {
            const auto found = differences_from(reference, world, config, make_log(world->rank(), of_layouts_),
                                                /*thread=*/world->rank());
            if (world->rank() == 0) result.differences = *found;
          },
          std::chrono::milliseconds(std::llround(config.parallel.deadline_s * 1000)));
    } catch (const core::UsageError&) {
      throw;
    } catch (const core::Error& error) {  // other layouts may be right
      result.differences = {.error = error.what()};
    }
    return result;
  }

  const VerifyOptions& options_;
  World world_;
  bool is_threaded_;
  std::optional<int> ranks_;  // of every layout; none: as many as it names
  Verbosity of_layouts_;      // what their runs say: the same for each, and all of it was said of the reference
  Log log_;
};

}  // namespace

int run_verify(const VerifyOptions& options) {
  const RunConfig config = load_given_config(options.configs, options.sets);
  std::string passes;
  const std::string command = fmt::format("command: verify\nlayouts: {}\nsteps: {}\nfloat64: {}\n",
                                          fmt::join(options.layouts, " "), options.steps, options.is_float64);
  with_world(config, command, [&](const World& world) {
    const Verification found = Verifier(options, world).run();
    passes = gather_strings(*world, found.passes() ? "yes" : "no").front();  // a teacher's ranks know nothing
    if (world->rank() > 0) return;
    write_result(options.json ? data::indented(verification_json(found)) : verification_text(found));
    flush_results();  // before another rank's exit code ends the job
  });
  return passes == "yes" ? 0 : 1;
}

}  // namespace limbeck::launch
