// What a rank reaches of its machine while all others do the same: for cluster files (cluster.h).
//
//     product_rate(memory, core::DType::BF16);            // FLOP/s
//     memory_rate(memory);                                // bytes/s
//     link_rate(world, memory).latency_us;
#pragma once

#include <functional>
#include <memory>

#include "core/device/memory.h"
#include "core/dtype.h"
#include "launch/plan/cluster.h"
#include "parallel/comm/world.h"

namespace limbeck::launch {

/// The middle of so many times that `f` takes, seconds, behind one that is not counted; `before` each, which is not
/// counted either.
double median_seconds(int times, const std::function<void()>& f, const std::function<void()>& before = {});

/// Collective: of what each rank says.
double mean_over(core::Comm& group, double value);

/// FLOP/s of linear layers of the shapes of small models, forward and both gradients, with float32 weights that are
/// others each time, in float32 or bfloat16.
double product_rate(const core::MemoryPtr& memory, core::DType compute);

/// Bytes/s, read and written, of a sum of tensors that no cache holds.
double memory_rate(const core::MemoryPtr& memory);

/// Collective, of a group of several ranks: bytes/s that leave a rank, as parallel::ExchangeCount counts them, in sums,
/// gatherings and exchanges of rows of the sizes of a step's; and the time of those of a row, which is taken
/// log2 of the ranks' number times, as step_time.h does.
ClusterLink link_rate(const std::shared_ptr<parallel::WorldComm>& group, const core::MemoryPtr& memory);

}  // namespace limbeck::launch
