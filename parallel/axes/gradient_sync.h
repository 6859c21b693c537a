// Gradient buckets, reduced while backward goes on. Each parameter's gradient is a view of a flat bucket; a bucket's
// reduction starts as soon as all its gradients are final, in one order on every rank.
//
//     GradientSync sync(parameters, mesh, memory);       // placements are filled (mesh.h, place)
//     sync.begin_step();
//     ... backward; for each gradient that is complete: sync.parameter_final(parameter);
//     sync.finish();                                      // gradients are sums over the ranks
#pragma once

#include <chrono>
#include <cstdint>
#include <unordered_map>
#include <vector>

#include "parallel/axes/mesh.h"

namespace limbeck::parallel {

class GradientSync {
 public:
  static constexpr std::int64_t default_bucket_bytes = std::int64_t{25} << 20;

  /// Parameters that are not frozen get a pinned slot->grad of their value's shape and `dtype` (the gradient dtype).
  /// Dense ones are reduced over dp x cp, or dp x cp x tp where all have parts of the gradient, experts over edp. A
  /// bucket closes once it holds `bucket_bytes`. Collective: groups of its own are made, so that reductions do not
  /// stand before other collectives.
  GradientSync(const core::ParameterList& parameters, const Mesh& mesh, const core::MemoryPtr& memory,
               core::DType dtype = core::DType::F32, std::int64_t bucket_bytes = default_bucket_bytes);
  ~GradientSync();

  /// Forgets what was final. Gradients have no value (slot->has_grad is false) until backward writes them.
  void begin_step();
  /// The gradient of this parameter is complete on this rank; throws if it is unknown or was final already.
  void parameter_final(const core::Parameter& parameter);
  /// Starts what has not started (parameters without a gradient count as zero) and waits for all.
  void finish();

  struct Statistics {
    std::int64_t num_buckets = 0;
    std::int64_t num_final_at_first_start =
        -1;  // parameters that were final when the first bucket started; -1: none did
    std::chrono::steady_clock::time_point first_start;
    std::vector<std::int64_t> start_order;  // buckets, as started in this step
  };
  const Statistics& statistics() const { return statistics_; }

 private:
  struct Bucket {
    core::Tensor flat;
    WorldComm* group = nullptr;
    std::vector<core::Parameter*> parameters;
    std::int64_t num_final = 0;
    core::CommHandle handle;
  };
  struct Member {
    std::size_t bucket;
    bool is_final;
  };
  void start_ready();

  std::vector<std::shared_ptr<WorldComm>> groups_;
  std::vector<Bucket> buckets_;  // in the order of their starts
  std::unordered_map<const core::Parameter*, Member> members_;
  std::size_t next_ = 0;  // bucket to start
  std::int64_t num_final_ = 0;
  Statistics statistics_;
};

}  // namespace limbeck::parallel
