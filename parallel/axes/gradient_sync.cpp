#include "parallel/axes/gradient_sync.h"

#include <algorithm>
#include <array>

#include "core/exchanges_of.h"
#include "kernels/elementwise.h"
#include "parallel/axes/packed_shares.h"

namespace limbeck::parallel {
namespace {

using core::check;
using core::Parameter;
using core::Tensor;

/// Of a gradient in its bucket.
std::int64_t padded_bytes(const Parameter& p, core::DType dtype) {
  return padded(core::bytes_of(dtype, p.value.numel()));
}

}  // namespace

GradientSync::GradientSync(const core::ParameterList& parameters, const Mesh& mesh, const core::MemoryPtr& memory,
                           core::DType dtype, std::int64_t bucket_bytes, const Sharding& sharding)
    : dtype_(dtype), groups_(mesh, sharding) {
  // Backward goes through the list from its end. A bucket takes its place when its last gradient is due; what both ends
  // of a pipeline sum is the last of each, for one of them waits for the gradients that the other sends.
  struct Open {
    std::vector<Parameter*> parameters;
    std::int64_t bytes = 0;
    std::size_t last = 0;
    std::size_t group = 0;
  };
  std::vector<Open> closed;
  std::array<Open, GradientGroups::count> open;
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    Parameter* p = parameters[parameters.size() - 1 - i];
    if (p->is_frozen()) continue;
    const std::size_t group = groups_.index_of(*p);
    Open& bucket = open[group];
    bucket.parameters.push_back(p);
    bucket.bytes += padded_bytes(*p, dtype);
    bucket.last = lies_on_both_ends(*p) ? parameters.size() : i;
    bucket.group = group;
    if (bucket.bytes >= bucket_bytes) closed.push_back(std::exchange(bucket, {}));
  }
  for (Open& bucket : open)
    if (!bucket.parameters.empty()) closed.push_back(std::move(bucket));
  std::sort(closed.begin(), closed.end(), [](const Open& a, const Open& b) { return a.last < b.last; });

  for (const Open& plan : closed) {
    Bucket bucket;
    bucket.group = &groups_[plan.group];
    bucket.parameters = plan.parameters;
    bucket.name = core::name_of_many(plan.parameters.front()->name, plan.parameters.size());
    const std::int64_t element = core::bytes_of(dtype, 1);
    bucket.flat = Tensor::zeros(memory, dtype, {plan.bytes / element});  // the padding stays zero
    for (Parameter* p : plan.parameters) {
      p->slot->parameter = p;
      check(members_.insert({p, {buckets_.size(), false}}).second, "gradient buckets: {} is listed twice", p->name);
    }
    if (sums_each_pass()) {
      bucket.flat.storage()->release();
      const int size = bucket.group->sharers->size();
      bucket.share = Tensor::zeros(memory, dtype, {longest_shares(bucket.parameters, dtype, size) / element});
    }
    buckets_.push_back(std::move(bucket));
  }
  statistics_.num_buckets = static_cast<std::int64_t>(buckets_.size());
  begin_step();
  if (!memory->has_queue()) return;
  // The first of each, of zeros, so that the first step pays for nothing that a fabric has to set up.
  finish();
  begin_step();
}

GradientSync::~GradientSync() = default;

void GradientSync::begin_step() {
  for (Bucket& bucket : buckets_) bucket.has_share = false;
  begin_pass();
}

void GradientSync::begin_pass() {
  for (Bucket& bucket : buckets_) {
    bucket.num_final = 0;
    std::int64_t at = 0;
    for (Parameter* p : bucket.parameters) {
      p->slot->has_grad = false;
      p->slot->grad = Tensor(bucket.flat.storage(), at, dtype_, p->value.shape());
      at += padded_bytes(*p, dtype_);
    }
  }
  for (auto& [parameter, member] : members_) member.is_final = false;
  next_ = 0;
  to_take_ = 0;
  num_final_ = 0;
  statistics_.num_final_at_first_start = -1;
  statistics_.start_order.clear();
}

void GradientSync::next_pass() {
  finish_pass();
  begin_pass();
}

void GradientSync::parameter_final(const Parameter& parameter) {
  const auto found = members_.find(&parameter);
  check(found != members_.end(), "gradient buckets: {} is in none", parameter.name);
  check(!found->second.is_final, "gradient buckets: {} was final already", parameter.name);
  found->second.is_final = true;
  ++num_final_;
  ++buckets_[found->second.bucket].num_final;
  start_ready();
}

void GradientSync::start_ready() {
  for (; next_ < buckets_.size(); ++next_) {
    Bucket& bucket = buckets_[next_];
    if (bucket.num_final < static_cast<std::int64_t>(bucket.parameters.size())) return;
    if (bucket.flat.storage()->is_empty()) bucket.flat.storage()->refill();
    for (Parameter* p : bucket.parameters) {
      if (p->slot->has_grad) continue;
      p->slot->grad.fill_zero();
      p->slot->has_grad = true;
    }
    if (statistics_.start_order.empty()) {
      statistics_.num_final_at_first_start = num_final_;
      statistics_.first_start = std::chrono::steady_clock::now();
    }
    statistics_.start_order.push_back(static_cast<std::int64_t>(next_));
    if (!sums_each_pass()) {
      const core::ExchangesOf scope("gradients of", bucket.name);
      bucket.handle = bucket.group->all->all_reduce_async(bucket.flat, core::Reduce::Sum);
      continue;
    }
    for (; to_take_ < next_; ++to_take_) take_sum(buckets_[to_take_]);  // whose memory this one takes
    start_dealt(bucket);
  }
}

void GradientSync::start_dealt(Bucket& bucket) const {
  WorldComm& sharers = *bucket.group->sharers;
  const std::int64_t longest = bucket.share.bytes(), size = sharers.size();
  bucket.packed = Tensor::empty(bucket.flat.memory(), dtype_, {size * bucket.share.numel()});
  bucket.summed = core::empty_like(bucket.share);
  core::on_device(bucket.flat, [&](const auto& device) {
    for (int r = 0; r < size; ++r)
      for_each_share(
          bucket.parameters, dtype_, r, sharers.size(), [&](std::size_t i, const core::Slice& share, std::int64_t at) {
            kernels::copy_bytes(device, bucket.parameters[i]->slot->grad.raw() + core::bytes_of(dtype_, share.first),
                                bucket.packed.mutable_raw() + r * longest + at, core::bytes_of(dtype_, share.count));
          });
  });
  bucket.flat.storage()->release();
  const core::ExchangesOf scope("gradients of", bucket.name);
  bucket.handle = sharers.reduce_scatter_async(bucket.packed, bucket.summed);
}

void GradientSync::take_sum(Bucket& bucket) const {
  bucket.handle.wait();
  bucket.packed = {};
  if (bucket.has_share)
    core::dispatch_float("gradient buckets", dtype_, [&]<class T>() {
      core::on_device(bucket.share, [&](const auto& device) {
        kernels::add_to(device, bucket.summed.data<T>(), bucket.share.mutable_data<T>(), bucket.share.numel());
      });
    });
  else
    bucket.share.copy_from(bucket.summed);
  bucket.has_share = true;
  bucket.summed = {};
}

void GradientSync::finish_pass() {
  for (Bucket& bucket : buckets_)
    for (Parameter* p : bucket.parameters)
      if (!members_.at(p).is_final) parameter_final(*p);
  if (sums_each_pass())
    for (; to_take_ < buckets_.size(); ++to_take_) take_sum(buckets_[to_take_]);
  else
    for (Bucket& bucket : buckets_) bucket.handle.wait();
}

void GradientSync::finish() {
  finish_pass();
  if (!sums_each_pass()) return;
  for (Bucket& bucket : buckets_) {
    const core::ExchangesOf scope("shares of the gradients of", bucket.name);
    bucket.handle = bucket.group->twins->all_reduce_async(bucket.share, core::Reduce::Sum);
  }
  for (Bucket& bucket : buckets_) {
    bucket.handle.wait();
    WorldComm& sharers = *bucket.group->sharers;
    for (Parameter* p : bucket.parameters) p->slot->grad = Tensor(bucket.share.storage(), 0, dtype_, {0});
    for_each_share(bucket.parameters, dtype_, sharers.rank(), sharers.size(),
                   [&](std::size_t i, const core::Slice& share, std::int64_t at) {
                     bucket.parameters[i]->slot->grad = Tensor(bucket.share.storage(), at, dtype_, {share.count});
                   });
  }
}

}  // namespace limbeck::parallel
