#include "tests/scale/gradient_reduction.h"

#include <algorithm>
#include <deque>

namespace limbeck::scale {

namespace {

/// Ranks that lie `stride` apart, as one of them sees it.
struct Ring {
  const Channel* channel;
  int rank, stride, size;

  int next() const {
    const int place = rank / stride % size;
    return rank + ((place + 1) % size - place) * stride;
  }
  /// Each step's message leaves when that of the step before has come.
  void go_round(int steps, double bytes) const {
    for (int step = 0; step < steps; ++step) {
      channel->post(next(), bytes);
      channel->receive(rank);
    }
  }
  void reduce_scatter(double bytes) const { go_round(size - 1, bytes / size); }
  void all_gather(double bytes) const { go_round(size - 1, bytes / size); }
  void all_reduce(double bytes) const { go_round(2 * (size - 1), bytes / size); }
};

void reduce(Reduction reduction, const Ring& all, const Ring& inside, const Ring& across, double bytes) {
  if (reduction == Reduction::Ring) {
    all.all_reduce(bytes);
    return;
  }
  inside.reduce_scatter(bytes);
  across.all_reduce(bytes / inside.size);
  inside.all_gather(bytes);
}

}  // namespace

ReductionTime simulate_reduction(SimulatedCluster& machines, Reduction reduction, const GradientShape& shape) {
  const Channel all("all", machines), inside("inside", machines), across("across", machines);
  std::deque<simgrid::s4u::SemaphorePtr> final_buckets;  // of each rank, those whose gradients are final
  ReductionTime time;
  for (int rank = 0; rank < machines.num_ranks(); ++rank) {
    const auto ready = final_buckets.emplace_back(simgrid::s4u::Semaphore::create(0));
    machines.start(rank, {}, [&time, &shape, ready] {
      for (int bucket = 0; bucket < shape.buckets; ++bucket) {
        compute(shape.backward_flops_a_bucket());
        ready->release();
      }
      time.backward = std::max(time.backward, simgrid::s4u::Engine::get_clock());
    });
    const int node = machines.ranks_a_node();
    machines.start(rank, {&all, &inside, &across}, [&, rank, node, ready] {
      for (int bucket = 0; bucket < shape.buckets; ++bucket) {
        ready->acquire();
        reduce(reduction, {&all, rank, 1, machines.num_ranks()}, {&inside, rank, 1, node},
               {&across, rank, node, machines.num_nodes()}, shape.bucket_bytes);
      }
    });
  }
  time.step = machines.run();
  return time;
}

}  // namespace limbeck::scale
