// Gradient buckets, reduced while backward goes on. Each parameter's gradient is a view of a flat bucket; a bucket's
// reduction starts as soon as all its gradients are final, in one order on every rank.
//
//     GradientSync sync(parameters, mesh, memory);       // placements are filled (mesh.h, place)
//     sync.begin_step();
//     ... backward; for each gradient that is complete: sync.parameter_final(parameter);
//     sync.finish();                                      // gradients are sums over the ranks
//
// Where gradients are dealt among sharers, a bucket has memory from the first gradient that is written until it has
// been reduced; what stays is this rank's share of each. Of several micro-batches each is reduced then:
//
//     if (sync.sums_each_pass()) sync.next_pass();        // between two of them
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "parallel/axes/gradient_groups.h"

namespace limbeck::parallel {

class GradientSync {
 public:
  static constexpr std::int64_t default_bucket_bytes = std::int64_t{25} << 20;

  /// Parameters that are not frozen get a pinned slot->grad of their value's shape and `dtype` (the gradient dtype),
  /// which is reduced over the ranks of its group. A bucket closes once it holds `bucket_bytes`. Collective.
  GradientSync(const core::ParameterList& parameters, const Mesh& mesh, const core::MemoryPtr& memory,
               core::DType dtype = core::DType::F32, std::int64_t bucket_bytes = default_bucket_bytes,
               const Sharding& sharding = {});
  ~GradientSync();

  /// Forgets what was final. Gradients have no value (slot->has_grad is false) until backward writes them.
  void begin_step();
  /// Whether gradients are dealt, so that those of each pass are final on their own.
  bool sums_each_pass() const { return groups_.shares(Sharded::Gradients); }
  /// As finish and begin_step, of which the sums are kept, to be added to.
  void next_pass();
  /// The gradient of this parameter is complete on this rank; throws if it is unknown or was final already.
  void parameter_final(const core::Parameter& parameter);
  /// Starts what has not started (parameters without a gradient count as zero) and waits for all. Where gradients are
  /// dealt, a parameter's slot then has this rank's share, [length], until the next step begins.
  void finish();

  struct Statistics {
    std::int64_t num_buckets = 0;
    std::int64_t num_final_at_first_start =
        -1;  // parameters that were final when the first bucket started; -1: none did
    std::chrono::steady_clock::time_point first_start;
    std::vector<std::int64_t> start_order;  // buckets, as started in this step
  };
  const Statistics& statistics() const { return statistics_; }
  const GradientGroups& groups() const { return groups_; }

 private:
  struct Bucket {
    core::Tensor flat;
    const GradientGroups::Group* group = nullptr;
    std::vector<core::Parameter*> parameters;
    std::shared_ptr<const std::string> name;  // of them, for messages
    std::int64_t num_final = 0;
    core::CommHandle handle;
    // Where gradients are dealt:
    core::Tensor share;           // of the passes that have been summed
    bool has_share = false;       // holds a value
    core::Tensor packed, summed;  // under way: everybody's shares of this rank's gradients, and its own of the sums
  };
  struct Member {
    std::size_t bucket;
    bool is_final;
  };
  void begin_pass();
  void start_ready();
  void start_dealt(Bucket& bucket) const;
  void take_sum(Bucket& bucket) const;
  void finish_pass();

  core::DType dtype_;
  GradientGroups groups_;
  std::vector<Bucket> buckets_;  // in the order of their starts
  std::unordered_map<const core::Parameter*, Member> members_;
  std::size_t next_ = 0;     // bucket to start
  std::size_t to_take_ = 0;  // of which the sum is taken next
  std::int64_t num_final_ = 0;
  Statistics statistics_;
};

}  // namespace limbeck::parallel
