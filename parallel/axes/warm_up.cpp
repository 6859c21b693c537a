#include "parallel/axes/warm_up.h"

#include <vector>

#include "core/exchanges_of.h"
#include "parallel/axes/communicators.h"

namespace limbeck::parallel {
namespace {

using core::DType;
using core::Tensor;

constexpr const char* first_exchanges = "first exchanges of each group";
// A fabric goes other ways for long sums than for short ones.
constexpr std::int64_t long_sum = std::int64_t{1} << 18;

Tensor ones(const core::MemoryPtr& memory, std::int64_t n) {
  return Tensor::from<float>(memory, {n}, std::vector<float>(static_cast<std::size_t>(n), 1));
}

void check_sum(const WorldComm& group, const char* what, const Tensor& sum) {
  const double last = core::host_value(sum.rows(sum.numel() - 1, 1));
  core::check(last == group.size(), "group {}: {} of ones over {} ranks gives {}, expected {}", group.name(), what,
              group.size(), last, group.size());
}

void warm_up_sums(WorldComm& group, const core::MemoryPtr& memory) {
  if (group.size() == 1) return;
  for (const std::int64_t n : {std::int64_t{1}, long_sum}) {
    const Tensor x = ones(memory, n);
    group.all_reduce(x, core::Reduce::Sum);
    check_sum(group, "all_reduce", x);
  }
}

void warm_up_parts(WorldComm& group, const core::MemoryPtr& memory) {
  if (group.size() == 1) return;
  const Tensor part = ones(memory, 1), all = Tensor::empty(memory, DType::F32, {group.size()});
  group.all_gather(part, all);
  group.reduce_scatter(all, part);
  check_sum(group, "all_gather and reduce_scatter", part);
}

/// Along the ring of stages, both ways. NCCL may have the first that is sent wait for its other end, so that not all
/// send first.
void warm_up_ways(const Mesh& mesh, const core::MemoryPtr& memory) {
  const std::shared_ptr<nn::PipelineComm> stages = make_pipeline_comm(mesh);
  const std::int64_t size = stages->size(), me = stages->rank();
  if (size == 1) return;
  using Kind = nn::PipelineComm::Kind;
  for (const auto& [kind, by] : {std::pair(Kind::Stream, std::int64_t{1}), {Kind::Gradient, size - 1}}) {
    const Tensor received = Tensor::zeros(memory, DType::F32, {1});
    const auto send = [&, kind = kind, by = by] { return stages->send(kind, ones(memory, 1), (me + by) % size); };
    core::CommHandle sent;
    if (me % 2 == 0) sent = send();
    stages->receive(kind, received, (me + size - by) % size);
    if (me % 2 != 0) sent = send();
    const double x = core::host_value(received);
    core::check(x == 1, "group {}: a stage that is sent 1 takes {}", mesh.pp().name(), x);
  }
  warm_up_sums(*mesh.pp_ways()->taught, memory);
}

}  // namespace

void warm_up_rows(WorldComm& group, const core::MemoryPtr& memory) {
  if (group.size() == 1) return;
  const core::ExchangesOf scope(first_exchanges);
  const std::vector<std::int64_t> one_each(static_cast<std::size_t>(group.size()), 1);
  const Tensor sent = ones(memory, group.size()), received = core::zeros_like(sent);
  group.all_to_all_v(sent, one_each, received, one_each);
  for (const float x : core::host_values<float>(received))
    core::check(x == 1, "group {}: all_to_all_v of ones gives {}", group.name(), x);
}

void warm_up(const Mesh& mesh, const core::MemoryPtr& memory) {
  const core::ExchangesOf scope(first_exchanges);
  warm_up_sums(mesh.world(), memory);
  warm_up_sums(mesh.data(), memory);
  warm_up_sums(mesh.cp(), memory);
  warm_up_rows(mesh.cp(), memory);
  warm_up_parts(mesh.cp(), memory);
  warm_up_sums(mesh.pp(), memory);
  warm_up_ways(mesh, memory);
  for (const char* axis : {"tp", "etp"}) {
    warm_up_sums(mesh.along(axis), memory);
    warm_up_parts(mesh.along(axis), memory);
  }
  warm_up_rows(mesh.experts(), memory);
  if (mesh.expert_nodes().here) warm_up_rows(*mesh.expert_nodes().here, memory);
}

}  // namespace limbeck::parallel
