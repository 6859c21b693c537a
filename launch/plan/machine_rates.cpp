#include "launch/plan/machine_rates.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <utility>
#include <vector>

#include "core/ops/linear.h"
#include "core/random.h"
#include "kernels/elementwise.h"
#include "launch/run/clock.h"
#include "parallel/comm/counted_comm.h"

namespace limbeck::launch {
namespace {

using core::DType;
using core::Tensor;

constexpr int times_each = 7;

Tensor random_rows(const core::MemoryPtr& memory, std::int64_t rows, std::int64_t columns) {
  const core::RandomStream random(1, 0, "rates");
  std::vector<float> values(static_cast<std::size_t>(rows * columns));
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(random.uniform(i)) - 0.5F;
  return Tensor::from<float>(memory, {rows, columns}, values);
}

/// Until what was queued is done.
void wait_for(const Tensor& t) { core::host_values<float>(t.rows(0, 1).to(DType::F32)); }

/// An exchange of so many rows of this rank among a group's ranks, whose tensors are there before it is called.
using Exchange = std::function<void()>;
using ExchangeOf = Exchange (*)(core::Comm& group, const core::MemoryPtr& memory, std::int64_t rows);

constexpr std::int64_t row = 64;  // values

Tensor rows_of(const core::MemoryPtr& memory, std::int64_t rows) {
  return Tensor::zeros(memory, DType::F32, {rows, row});
}

Exchange sum_rows(core::Comm& group, const core::MemoryPtr& memory, std::int64_t rows) {
  return [&group, x = rows_of(memory, rows)] { group.all_reduce(x, core::Reduce::Sum); };
}
Exchange gather_rows(core::Comm& group, const core::MemoryPtr& memory, std::int64_t rows) {
  return [&group, x = rows_of(memory, rows), all = rows_of(memory, group.size() * rows)] { group.all_gather(x, all); };
}
Exchange exchange_rows(core::Comm& group, const core::MemoryPtr& memory, std::int64_t rows) {
  const std::vector<std::int64_t> counts(static_cast<std::size_t>(group.size()), rows);
  return [&group, counts, x = rows_of(memory, group.size() * rows), y = rows_of(memory, group.size() * rows)] {
    group.all_to_all_v(x, counts, y, counts);
  };
}

double seconds_of(parallel::WorldComm& group, const Exchange& exchange) {
  return mean_over(group, median_seconds(times_each, exchange, [&] { group.barrier(); }));
}

double bytes_of(const std::shared_ptr<parallel::WorldComm>& group, const core::MemoryPtr& memory, ExchangeOf make,
                std::int64_t rows) {
  const auto traffic = std::make_shared<parallel::TrafficLog>();
  const std::shared_ptr<parallel::WorldComm> watched = parallel::counted(group, traffic);
  make(*watched, memory, rows)();
  double bytes = 0;
  for (const parallel::ExchangeCount& t : traffic->entries()) bytes += static_cast<double>(t.bytes);
  return bytes;
}

}  // namespace

double mean_over(core::Comm& group, double value) {
  Tensor sum = Tensor::from<double>(core::Memory::cpu(1), {1}, {&value, 1});
  group.all_reduce(sum, core::Reduce::Sum);
  return core::host_values<double>(sum)[0] / group.size();
}

double median_seconds(int times, const std::function<void()>& f, const std::function<void()>& before) {
  f();
  std::vector<double> seconds;
  for (int i = 0; i < times; ++i) {
    if (before) before();
    auto since = Clock::now();
    f();
    seconds.push_back(lap(since));
  }
  std::ranges::nth_element(seconds, seconds.begin() + times / 2);
  return std::max(seconds[static_cast<std::size_t>(times / 2)], 1e-9);
}

double product_rate(const core::MemoryPtr& memory, DType compute) {
  constexpr std::int64_t tokens = 1024;
  constexpr std::array<std::pair<std::int64_t, std::int64_t>, 5> shapes = {
      {{128, 128}, {256, 256}, {256, 768}, {768, 256}, {512, 2048}}};  // in, out
  double flops = 0, seconds = 0;
  for (const auto& [in, out] : shapes) {
    const Tensor x = random_rows(memory, tokens, in).to(compute);
    Tensor weight = random_rows(memory, out, in);
    seconds += median_seconds(times_each, [&] {
      weight.mutable_raw();  // another, of which a packed form is made anew
      core::Tape tape;
      const core::Var from = core::leaf(x), w = core::leaf(weight);
      const core::Var y = core::linear(tape, from, w);
      core::accumulate(y.slot, y.value);
      tape.run();
      wait_for(w.slot->grad);
    });
    flops += 3 * 2.0 * static_cast<double>(tokens * in * out);
  }
  return flops / seconds;
}

double memory_rate(const core::MemoryPtr& memory) {
  constexpr std::int64_t n = std::int64_t{16} << 20;
  const Tensor a = Tensor::zeros(memory, DType::F32, {n, 1}), b = Tensor::zeros(memory, DType::F32, {n, 1});
  Tensor y = Tensor::zeros(memory, DType::F32, {n, 1});
  const double seconds = median_seconds(times_each, [&] {
    core::on_device(y, [&](const auto& device) {
      kernels::add(device, a.data<float>(), b.data<float>(), y.mutable_data<float>(), n);
    });
    wait_for(y);
  });
  return 3 * 4.0 * static_cast<double>(n) / seconds;
}

ClusterLink link_rate(const std::shared_ptr<parallel::WorldComm>& group, const core::MemoryPtr& memory) {
  constexpr std::array<std::int64_t, 2> sizes = {1024, 16384};  // rows: 256 KiB, 4 MiB
  constexpr std::array<ExchangeOf, 3> exchanges = {sum_rows, gather_rows, exchange_rows};
  double latency = 0, seconds = 0, bytes = 0;
  for (const ExchangeOf make : exchanges) {
    const double of_a_row = seconds_of(*group, make(*group, memory, 1));
    latency += of_a_row / static_cast<double>(exchanges.size());
    for (const std::int64_t rows : sizes) {
      seconds += std::max(seconds_of(*group, make(*group, memory, rows)) - of_a_row, 1e-9);
      bytes += bytes_of(group, memory, make, rows);
    }
  }
  return {.gb_s = bytes / seconds / 1e9,
          .latency_us = 1e6 * latency / std::ceil(std::log2(static_cast<double>(group->size())))};
}

}  // namespace limbeck::launch
