// Layouts over GPUs that are held against one rank, as `limbeck verify` does with ranks that are threads.
//
//     GpuVerification verification("name");
//     const launch::LayoutDifferences found = verification.differences("dp2");
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "launch/run/run_config.h"
#include "launch/run/verification.h"
#include "launch/run/verified_layouts.h"
#include "tests/support/run_limbeck.h"
#include "tests/support/thread_ranks.h"

namespace limbeck::testing {

/// Of one step in float32.
class GpuVerification {
 public:
  using World = std::shared_ptr<parallel::WorldComm>;

  explicit GpuVerification(const std::string& name)
      : folder_(name), reference_(launch::steps_on_one_rank(config("dp1"), 1, log_)) {}

  const launch::VerifiedSteps& reference() const { return reference_; }

  /// Of an item of --layouts, each rank on the GPU of its number; `around` is put around the world of threads.
  launch::LayoutDifferences differences(
      const std::string& item, const std::function<World(const World&)>& around = [](const World& w) { return w; }) {
    const launch::RunConfig of_layout = config(item);
    launch::LayoutDifferences result;
    run_ranks(launch::ranks_of(of_layout), [&](RankWorld& world) {
      const auto found =
          launch::differences_from(reference_, around(world.comm), of_layout, log_, /*thread=*/world.rank);
      if (world.rank == 0) result = *found;
    });
    return result;
  }

 private:
  launch::RunConfig config(const std::string& item) const {
    const std::vector<std::string> sets = {"data.text=" + (folder_.path() / "text").string(),
                                           "data.cache_dir=" + (folder_.path() / "tokens").string(),
                                           "train.device=CUDA",
                                           "data.sequence_length=8",
                                           "model.width=16",
                                           "model.num_heads=2",
                                           "model.moe.expert_width=8"};
    return launch::exact(launch::load_given_config({folder_.path() / "tiny.textproto"},
                                                   launch::settings_of(sets, launch::parse_layout_item(item))),
                         core::DType::F32);
  }

  RunFolder folder_;
  launch::Log log_ = launch::make_log(1);
  launch::VerifiedSteps reference_;
};

}  // namespace limbeck::testing
