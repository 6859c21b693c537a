// One of CUTLASS's grouped products, and what it reads of its groups on the device.
#pragma once

#include <cutlass/cutlass.h>
#include <cutlass/gemm/device/gemm_universal_adapter.h>
#include <cutlass/epilogue/collective/collective_builder.hpp>
#include <cutlass/gemm/collective/collective_builder.hpp>
#include <cutlass/gemm/group_array_problem_shape.hpp>
#include <cutlass/gemm/kernel/gemm_universal.hpp>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "gpu.h"
#include "kernels/bf16.h"
#include "kernels/cuda/grid.h"
#include "kernels/cuda/grouped_problem.h"
#include "kernels/cuda/scratch.h"
#include "kernels/matmul.h"

namespace limbeck::kernels {

/// Two warp groups multiply: on tiles of their own by turns, or on halves of one.
struct Pingpong {
  using Kernel = cutlass::gemm::KernelPtrArrayTmaWarpSpecializedPingpong;
  using Epilogue = cutlass::epilogue::PtrArrayTmaWarpSpecializedPingpong;
};
struct Cooperative {
  using Kernel = cutlass::gemm::KernelPtrArrayTmaWarpSpecializedCooperative;
  using Epilogue = cutlass::epilogue::PtrArrayTmaWarpSpecializedCooperative;
};

/// c_e = a_e b_e + beta c_e in tiles of M x N, 64 terms at a time, by pairs of blocks whose tiles lie below each other.
/// With Terms a is stored [terms,m]; with TransposedB b is stored [n,terms].
template <bool Terms, bool TransposedB, class C, class Schedule, int M, int N>
struct HopperProduct {
  using Problem = cutlass::gemm::GroupProblemShape<cute::Shape<int, int, int>>;
  using Factor = cutlass::bfloat16_t;
  using Result = std::conditional_t<std::is_same_v<C, bf16>, cutlass::bfloat16_t, C>;
  using LayoutA = std::conditional_t<Terms, cutlass::layout::ColumnMajor, cutlass::layout::RowMajor>;
  using LayoutB = std::conditional_t<TransposedB, cutlass::layout::ColumnMajor, cutlass::layout::RowMajor>;
  using LayoutC = cutlass::layout::RowMajor;
  using TileShape = cute::Shape<cute::Int<M>, cute::Int<N>, cute::_64>;
  using ClusterShape = cute::Shape<cute::_2, cute::_1, cute::_1>;
  static constexpr int factors = 16 / sizeof(Factor), results = 16 / sizeof(Result);

  using Epilogue = typename cutlass::epilogue::collective::CollectiveBuilder<
      cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, TileShape, ClusterShape,
      cutlass::epilogue::collective::EpilogueTileAuto, float, float, Result, LayoutC*, results, Result, LayoutC*,
      results, typename Schedule::Epilogue, cutlass::epilogue::fusion::LinearCombination<Result, float>>::CollectiveOp;
  using Mainloop = typename cutlass::gemm::collective::CollectiveBuilder<
      cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, Factor, LayoutA*, factors, Factor, LayoutB*, factors, float,
      TileShape, ClusterShape,
      cutlass::gemm::collective::StageCountAutoCarveout<static_cast<int>(sizeof(typename Epilogue::SharedStorage))>,
      typename Schedule::Kernel>::CollectiveOp;
  using Gemm =
      cutlass::gemm::device::GemmUniversalAdapter<cutlass::gemm::kernel::GemmUniversal<Problem, Mainloop, Epilogue>>;

  using StrideA = typename Gemm::GemmKernel::InternalStrideA;
  using StrideB = typename Gemm::GemmKernel::InternalStrideB;
  using StrideC = typename Gemm::GemmKernel::InternalStrideC;
  using Size = typename Problem::UnderlyingProblemShape;

  /// What the product reads of its groups.
  struct Groups {
    Size* size;
    const Factor** a;
    const Factor** b;
    Result** c;
    StrideA* stride_a;
    StrideB* stride_b;
    StrideC* stride_c;
  };
};

/// The stride of a matrix whose rows, or columns, are `pitch` values apart.
template <class Stride>
__host__ __device__ Stride stride_of(std::int64_t pitch) {
  Stride stride{};
  if constexpr (cute::is_static_v<std::remove_cv_t<std::remove_reference_t<decltype(cute::get<0>(stride))>>>)
    cute::get<1>(stride) = pitch;
  else
    cute::get<0>(stride) = pitch;
  return stride;
}

/// A group without terms is left out, as one of no rows: clear_empty_kernel has it.
template <class Product, bool Terms, bool TransposedB, class C>
__global__ void groups_kernel(const GroupedProblem p, const bf16* a, const bf16* b, C* c,
                              const typename Product::Groups groups) {
  const std::int64_t e = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (e >= p.groups) return;
  const std::int64_t first = p.offsets[e], count = p.offsets[e + 1] - first, width = Terms ? p.m : p.k;
  const auto n = static_cast<int>(p.n);
  if constexpr (Terms)
    groups.size[e] = cute::make_shape(count > 0 ? static_cast<int>(p.m) : 0, n, static_cast<int>(count));
  else
    groups.size[e] = cute::make_shape(static_cast<int>(count), n, static_cast<int>(p.k));
  groups.a[e] = reinterpret_cast<const typename Product::Factor*>(a + first * width);
  groups.b[e] = reinterpret_cast<const typename Product::Factor*>(b + (Terms ? first : e * p.k) * p.n);
  groups.c[e] = reinterpret_cast<typename Product::Result*>(c + (Terms ? e * p.m : first) * p.n);
  groups.stride_a[e] = stride_of<typename Product::StrideA>(width);
  groups.stride_b[e] = stride_of<typename Product::StrideB>(TransposedB ? p.k : p.n);
  groups.stride_c[e] = stride_of<typename Product::StrideC>(p.n);
}

/// Of a group without terms the product is zero: c_e = beta c_e.
template <class C>
__global__ void clear_empty_kernel(const GroupedProblem p, float beta, C* c) {
  const std::int64_t e = blockIdx.y, values = p.m * p.n;
  if (p.offsets[e + 1] > p.offsets[e]) return;
  for (std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < values; i += gridDim.x * blockDim.x) {
    C& value = c[e * values + i];
    value = beta == 0 ? C{0} : beta * value;
  }
}

inline void check_cutlass(cutlass::Status status) {
  if (status != cutlass::Status::kSuccess)
    throw std::runtime_error(std::string("CUTLASS: ") + cutlass::cutlassGetStatusString(status));
}

template <bool Terms, bool TransposedB, class Schedule, int M, int N, class C>
void hopper_product(const Cuda& cuda, const GroupedProblem& p, const bf16* a, const bf16* b, float beta, C* c) {
  using Product = HopperProduct<Terms, TransposedB, C, Schedule, M, N>;
  using Gemm = typename Product::Gemm;
  Scratch scratch(cuda);
  const typename Product::Groups groups{
      scratch.take<typename Product::Size>(p.groups),          scratch.take<const typename Product::Factor*>(p.groups),
      scratch.take<const typename Product::Factor*>(p.groups), scratch.take<typename Product::Result*>(p.groups),
      scratch.take<typename Product::StrideA>(p.groups),       scratch.take<typename Product::StrideB>(p.groups),
      scratch.take<typename Product::StrideC>(p.groups)};
  gpu::launch(cuda, groups_kernel<Product, Terms, TransposedB, C>,
              dim3(static_cast<unsigned>(ceil_div(p.groups, usual_threads))), dim3(usual_threads), 0, p, a, b, c,
              groups);
  if constexpr (Terms)
    if (beta != 1)
      gpu::launch(cuda, clear_empty_kernel<C>, dim3(16, static_cast<unsigned>(p.groups)), dim3(usual_threads), 0, p,
                  beta, c);

  typename Gemm::Arguments arguments{
      cutlass::gemm::GemmUniversalMode::kGrouped,
      {static_cast<int>(p.groups), groups.size, nullptr},
      {groups.a, groups.stride_a, groups.b, groups.stride_b},
      {{}, const_cast<const typename Product::Result**>(groups.c), groups.stride_c, groups.c, groups.stride_c},
      {.device_id = cuda.ordinal, .sm_count = cuda.state->num_multiprocessors}};
  arguments.epilogue.thread.alpha = 1;
  arguments.epilogue.thread.beta = beta;
  Gemm gemm;
  check_cutlass(gemm.can_implement(arguments));
  check_cutlass(gemm.initialize(
      arguments, scratch.take<std::uint8_t>(static_cast<std::int64_t>(Gemm::get_workspace_size(arguments))),
      cuda.state->stream));
  check_cutlass(gemm.run(cuda.state->stream));
}

}  // namespace limbeck::kernels
