#include "parallel/axes/gradient_sync.h"

#include <algorithm>
#include <array>

namespace limbeck::parallel {
namespace {

using core::check;
using core::Parameter;
using core::Tensor;

constexpr std::int64_t alignment = 64;  // bytes; of each gradient in its bucket

/// The ranks that have the parts of a gradient.
enum class Group : std::uint8_t { Data, Edp, DataTp };
constexpr std::size_t num_groups = 3;

Group group_of(const Parameter& p) {
  const auto is_partial_over = [&](std::string_view axis) {
    return std::any_of(p.placement.begin(), p.placement.end(), [&](const core::AxisPlacement& a) {
      return a.axis == axis && a.role == core::AxisRole::PartialGradient;
    });
  };
  return is_partial_over("edp") ? Group::Edp : is_partial_over("tp") ? Group::DataTp : Group::Data;
}

/// Groups of their own for these reductions, by Group. All of them, in one order: which ones a rank needs, and in which
/// order its buckets close, depends on the sizes of its parts.
std::vector<std::shared_ptr<WorldComm>> make_groups(const Mesh& mesh) {
  const auto over = [](WorldComm& ranks, const char* name) { return ranks.split(0, ranks.rank(), name); };
  std::vector<std::shared_ptr<WorldComm>> groups;
  groups.push_back(over(mesh.data(), "dp gradients"));
  groups.push_back(over(mesh.edp(), "edp gradients"));
  groups.push_back(over(mesh.stage(), "dp tp gradients"));  // no other axis holds dense parameters
  return groups;
}

}  // namespace

GradientSync::GradientSync(const core::ParameterList& parameters, const Mesh& mesh, const core::MemoryPtr& memory,
                           core::DType dtype, std::int64_t bucket_bytes)
    : groups_(make_groups(mesh)) {
  const auto padded = [&](const Parameter& p) {
    return (core::bytes_of(dtype, p.value.numel()) + alignment - 1) / alignment * alignment;
  };
  // Backward goes through the list from its end. A bucket takes its place when its last gradient is due.
  struct Open {
    std::vector<Parameter*> parameters;
    std::int64_t bytes = 0;
    std::size_t last = 0;
    Group group = Group::Data;
  };
  std::vector<Open> closed;
  std::array<Open, num_groups> open;
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    Parameter* p = parameters[parameters.size() - 1 - i];
    if (p->is_frozen()) continue;
    const Group group = group_of(*p);
    Open& bucket = open[static_cast<std::size_t>(group)];
    bucket.parameters.push_back(p);
    bucket.bytes += padded(*p);
    bucket.last = i;
    bucket.group = group;
    if (bucket.bytes >= bucket_bytes) closed.push_back(std::exchange(bucket, {}));
  }
  for (Open& bucket : open)
    if (!bucket.parameters.empty()) closed.push_back(std::move(bucket));
  std::sort(closed.begin(), closed.end(), [](const Open& a, const Open& b) { return a.last < b.last; });

  for (const Open& plan : closed) {
    Bucket bucket;
    bucket.group = groups_[static_cast<std::size_t>(plan.group)].get();
    bucket.parameters = plan.parameters;
    const std::int64_t element = core::bytes_of(dtype, 1);
    bucket.flat = Tensor::zeros(memory, dtype, {plan.bytes / element});  // the padding stays zero
    std::int64_t at = 0;
    for (Parameter* p : plan.parameters) {
      p->slot->parameter = p;
      p->slot->has_grad = false;
      p->slot->grad = Tensor(bucket.flat.storage(), at, dtype, p->value.shape());
      at += padded(*p);
      check(members_.insert({p, {buckets_.size(), false}}).second, "gradient buckets: {} is listed twice", p->name);
    }
    buckets_.push_back(std::move(bucket));
  }
  statistics_.num_buckets = static_cast<std::int64_t>(buckets_.size());
  if (memory->is_host()) return;
  // The first of each, of zeros, so that the first step pays for nothing that a fabric has to set up.
  for (Bucket& bucket : buckets_) bucket.group->all_reduce(bucket.flat, core::Reduce::Sum);
}

GradientSync::~GradientSync() = default;

void GradientSync::begin_step() {
  for (Bucket& bucket : buckets_) {
    bucket.num_final = 0;
    for (Parameter* p : bucket.parameters) p->slot->has_grad = false;
  }
  for (auto& [parameter, member] : members_) member.is_final = false;
  next_ = 0;
  num_final_ = 0;
  statistics_.num_final_at_first_start = -1;
  statistics_.start_order.clear();
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
    bucket.handle = bucket.group->all_reduce_async(bucket.flat, core::Reduce::Sum);
  }
}

void GradientSync::finish() {
  for (Bucket& bucket : buckets_)
    for (Parameter* p : bucket.parameters)
      if (!members_.at(p).is_final) parameter_final(*p);
  for (Bucket& bucket : buckets_) bucket.handle.wait();
}

}  // namespace limbeck::parallel
