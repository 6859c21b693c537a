#include "kernels/cuda/state_scan.cuh"

namespace limbeck::kernels {
namespace cuda_scan {
namespace {

/// Block (elements, head, chain): a thread has an element of the state that goes along.
template <class A>
__global__ void __launch_bounds__(scan_threads)
    carry_states_kernel(const ScanChains chains, bool backwards, const A* parts, const ScanProblem p,
                        std::int64_t first, std::int64_t count, A* states) {
  const std::int64_t element = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x, head = blockIdx.y;
  const std::int64_t elements = p.width * p.state_width;
  if (element >= elements) return;
  for (std::int64_t chain = blockIdx.z; chain < chains.number; chain += gridDim.z) {
    const std::int64_t begin = chains.offsets[chain], end = chains.offsets[chain + 1];
    A state = 0;
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t row = chains.rows[backwards ? end - 1 - (i - begin) : i];
      if (row >= first && row < first + count)
        states[((row - first) * p.num_heads + head) * elements + element] = state;
      const A* const part = parts + (row * p.num_heads + head) * (elements + 1);
      state = part[element] + part[elements] * state;
    }
  }
}

}  // namespace
}  // namespace cuda_scan

template <class D, class T>
void state_scan_parts(const D& cuda, const ScanProblem& p, const ScanInputs<T>& in, const T* dy, Acc<T>* memory,
                      Acc<T>* parts) {
  using namespace cuda_scan;
  using A = Acc<T>;
  if (p.sequences.tokens == 0) return;
  const Room<A> room(p, memory);
  const std::int64_t pitch = p.width * p.state_width + 1;
  make_steps<T>(cuda, p, in, room);
  if (dy == nullptr) {
    make_states<T>(cuda, p, in, room, nullptr);
    write_states<true, A>(cuda, p, room, room.states, parts, pitch);
  } else {
    make_after<T>(cuda, p, in, dy, room, room.states, nullptr);
    write_states<false, A>(cuda, p, room, room.states, parts, pitch);
  }
}

template <class D, class A>
void carry_states(const D& cuda, const ScanChains& chains, bool backwards, const A* parts, const ScanProblem& p,
                  std::int64_t first, std::int64_t count, A* states) {
  using namespace cuda_scan;
  if (chains.number == 0) return;
  gpu::launch(cuda, carry_states_kernel<A>,
              dim3(static_cast<unsigned>(ceil_div(p.width * p.state_width, scan_threads)),
                   static_cast<unsigned>(p.num_heads),
                   static_cast<unsigned>(std::min<std::int64_t>(chains.number, 64))),
              dim3(scan_threads), 0, chains, backwards, parts, p, first, count, states);
}

#define LIMBECK_INSTANTIATE(T) \
  template void state_scan_parts(const Cuda&, const ScanProblem&, const ScanInputs<T>&, const T*, Acc<T>*, Acc<T>*);
LIMBECK_INSTANTIATE(float)
LIMBECK_INSTANTIATE(double)
LIMBECK_INSTANTIATE(bf16)

#define LIMBECK_INSTANTIATE_CARRY(A)                                                                            \
  template void carry_states(const Cuda&, const ScanChains&, bool, const A*, const ScanProblem&, std::int64_t, \
                             std::int64_t, A*);
LIMBECK_INSTANTIATE_CARRY(float)
LIMBECK_INSTANTIATE_CARRY(double)

}  // namespace limbeck::kernels
