// Where Limbeck was built with CUTLASS, a Hopper has those of hopper_products.h for bfloat16 in whole vectors.
#include <algorithm>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "hopper_products.h"
#include "kernels/cuda/grouped_product.h"
#include "kernels/cuda/grouped_tiles.cuh"
#include "kernels/cuda/shared_tile.cuh"
#include "kernels/cuda/vector.cuh"

namespace limbeck::kernels {
namespace {

// ---- bfloat16: tiles of 128 x 128 by eight warps of 64 x 32 each, 32 terms at a time, on the tensor cores.

constexpr int tile_m = 128, tile_n = 128, tile_k = 32, stages = 4;
constexpr unsigned mma_threads = 256;

/// What a product's factors are, as they are stored.
template <bool Terms, bool TransposedB>
struct Factors {
  using A = std::conditional_t<Terms, SharedTile<tile_k, tile_m>, SharedTile<tile_m, tile_k>>;
  using B = std::conditional_t<TransposedB, SharedTile<tile_n, tile_k>, SharedTile<tile_k, tile_n>>;
  static constexpr int stage_bytes = A::bytes + B::bytes;

  A a;
  B b;
  __device__ explicit Factors(unsigned char* memory)
      : a{reinterpret_cast<bf16*>(memory)}, b{reinterpret_cast<bf16*>(memory + A::bytes)} {}

  template <bool Aligned>
  __device__ __forceinline__ void fetch(const GlobalMatrix& from_a, const GlobalMatrix& from_b, std::int64_t m,
                                        std::int64_t n, std::int64_t k) const {
    const std::int64_t row_a = Terms ? k : m, column_a = Terms ? m : k;
    const std::int64_t row_b = TransposedB ? n : k, column_b = TransposedB ? k : n;
    if constexpr (Aligned) {
      a.copy(from_a, row_a, column_a);
      b.copy(from_b, row_b, column_b);
    } else {
      a.read(from_a, row_a, column_a);
      b.read(from_b, row_b, column_b);
    }
  }

  /// The warp's part from (m, n) on: sums += a b.
  __device__ __forceinline__ void multiply(int m, int n, float (&sums)[4][4][4]) const {
#pragma unroll
    for (int k = 0; k < tile_k; k += 16) {
      std::uint32_t left[4][4], right[2][4];
#pragma unroll
      for (int i = 0; i < 4; ++i)
        if constexpr (Terms)
          left_factor_transposed(a, m + 16 * i, k, left[i]);
        else
          left_factor(a, m + 16 * i, k, left[i]);
#pragma unroll
      for (int j = 0; j < 2; ++j)
        if constexpr (TransposedB)
          right_factors(b, n + 16 * j, k, right[j]);
        else
          right_factors_transposed(b, n + 16 * j, k, right[j]);
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const std::uint32_t(&pair)[4] = right[j / 2];
          const std::uint32_t one[2] = {pair[j % 2 * 2], pair[j % 2 * 2 + 1]};
          gpu::multiply_add(sums[i][j], left[i], one);
        }
    }
  }
};

/// Of a row's columns from `first` on every eighth pair, below n: what a lane has of it, from `part` on.
template <bool Aligned, class C>
__device__ __forceinline__ void put_row(C* row, std::int64_t first, std::int64_t n, const float (&sums)[4][4], int part,
                                        float beta) {
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const std::int64_t column = first + 8 * j;
    if (column >= n) continue;
    const int count = n - column > 1 ? 2 : 1;
    Values<float, 2> pair{sums[j][part], sums[j][part + 1]};
    if (beta != 0) {
      const Values<float, 2> there = load<2, Aligned>(row + column, count);
      pair[0] += beta * there[0];
      pair[1] += beta * there[1];
    }
    store<Aligned>(row + column, pair, count);
  }
}

template <bool Terms, bool TransposedB, bool Aligned, class C>
__global__ void __launch_bounds__(mma_threads, 2)
    product_kernel(const GroupedProblem problem, const bf16* a, const bf16* b, float beta, C* c) {
  using Stage = Factors<Terms, TransposedB>;
  unsigned char* const memory = gpu::dynamic_shared<unsigned char>();
  TileTurns turns(problem, reinterpret_cast<std::int64_t*>(memory + stages * Stage::stage_bytes), tile_m, tile_n);
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int warp_m = warp / 4 * 64, warp_n = warp % 4 * 32;

  for (Tile tile; turns.next(tile);) {
    const std::int64_t terms = Terms ? tile.count : problem.k;
    const std::int64_t height = Terms ? problem.m : tile.count;
    const std::int64_t width_a = Terms ? problem.m : problem.k, width_b = TransposedB ? problem.k : problem.n;
    const GlobalMatrix from_a{a + tile.first * width_a, width_a, tile.count, width_a};
    const GlobalMatrix from_b = Terms ? GlobalMatrix{b + tile.first * problem.n, problem.n, tile.count, problem.n}
                                      : GlobalMatrix{b + tile.group * problem.n * problem.k, width_b,
                                                     TransposedB ? problem.n : problem.k, width_b};
    const auto stage = [&](std::int64_t step) { return Stage(memory + step % stages * Stage::stage_bytes); };
    const std::int64_t steps = (terms + tile_k - 1) / tile_k;

    // Set one by one: what a loop of the compiler's sets lies in memory from then on.
    float sums[4][4][4];
#pragma unroll
    for (int i = 0; i < 4 * 4 * 4; ++i) sums[i / 16][i / 4 % 4][i % 4] = 0;
    if constexpr (Aligned) {
      for (std::int64_t step = 0; step < stages - 1; ++step) {
        if (step < steps) stage(step).template fetch<true>(from_a, from_b, tile.row, tile.column, step * tile_k);
        gpu::commit_copies();
      }
      for (std::int64_t step = 0; step < steps; ++step) {
        gpu::wait_copies<stages - 2>();
        __syncthreads();
        const std::int64_t ahead = step + stages - 1;
        if (ahead < steps) stage(ahead).template fetch<true>(from_a, from_b, tile.row, tile.column, ahead * tile_k);
        gpu::commit_copies();
        stage(step).multiply(warp_m, warp_n, sums);
      }
      gpu::wait_copies<0>();
    } else {
      for (std::int64_t step = 0; step < steps; ++step) {
        stage(0).template fetch<false>(from_a, from_b, tile.row, tile.column, step * tile_k);
        __syncthreads();
        stage(0).multiply(warp_m, warp_n, sums);
        __syncthreads();
      }
    }
    __syncthreads();  // the next tile's copies go where this one's were read

    C* const to = c + (Terms ? tile.group * problem.m * problem.n : tile.first * problem.n);
#pragma unroll
    for (int half = 0; half < 8; ++half) {  // rows of eight of a warp's part
      const std::int64_t row = tile.row + warp_m + 8 * half + lane / 4;
      if (row < height)
        put_row<Aligned>(to + row * problem.n, tile.column + warp_n + lane % 4 * 2, problem.n, sums[half / 2],
                         half % 2 * 2, beta);
    }
  }
}

// ---- float and double: tiles of 64 x 64 by 16 x 16 threads of 4 x 4 results, 16 terms at a time.

constexpr int plain_tile = 64, plain_k = 16, plain_threads = 16, plain_part = 4;

/// Value (row, column) of a stored matrix as a T, 0 outside.
template <class T, class S>
__device__ T value_at(const S* values, std::int64_t row, std::int64_t rows, std::int64_t column, std::int64_t columns,
                      std::int64_t pitch) {
  return row < rows && column < columns ? as<T>(values[row * pitch + column]) : T{0};
}

template <class T, class B, bool Terms, bool TransposedB>
__global__ void __launch_bounds__(plain_threads* plain_threads)
    plain_kernel(const GroupedProblem problem, const T* a, const B* b, T beta, T* c) {
  __shared__ T left[plain_k][plain_tile + 1];
  __shared__ T right[plain_k][plain_tile + 1];
  TileTurns turns(problem, gpu::dynamic_shared<std::int64_t>(), plain_tile, plain_tile);
  const int x = static_cast<int>(threadIdx.x) % plain_threads, y = static_cast<int>(threadIdx.x) / plain_threads;

  for (Tile tile; turns.next(tile);) {
    const std::int64_t terms = Terms ? tile.count : problem.k;
    const std::int64_t height = Terms ? problem.m : tile.count;
    const T* const of_a = a + tile.first * (Terms ? problem.m : problem.k);
    const B* const of_b = b + (Terms ? tile.first * problem.n : tile.group * problem.n * problem.k);
    T sums[plain_part][plain_part] = {};
    for (std::int64_t k = 0; k < terms; k += plain_k) {
      for (int i = static_cast<int>(threadIdx.x); i < plain_k * plain_tile; i += plain_threads * plain_threads) {
        // Neighbouring threads read what lies side by side.
        const int across = i % plain_tile, down = i / plain_tile;
        const int term = i % plain_k, other = i / plain_k;
        if constexpr (Terms)
          left[down][across] = value_at<T>(of_a, k + down, terms, tile.row + across, height, problem.m);
        else
          left[term][other] = value_at<T>(of_a, tile.row + other, height, k + term, terms, problem.k);
        if constexpr (TransposedB)
          right[term][other] = value_at<T>(of_b, tile.column + other, problem.n, k + term, terms, problem.k);
        else
          right[down][across] = value_at<T>(of_b, k + down, terms, tile.column + across, problem.n, problem.n);
      }
      __syncthreads();
      for (int term = 0; term < plain_k; ++term)
#pragma unroll
        for (int i = 0; i < plain_part; ++i)
#pragma unroll
          for (int j = 0; j < plain_part; ++j)
            sums[i][j] += left[term][y + i * plain_threads] * right[term][x + j * plain_threads];
      __syncthreads();
    }
    T* const to = c + (Terms ? tile.group * problem.m * problem.n : tile.first * problem.n);
#pragma unroll
    for (int i = 0; i < plain_part; ++i)
#pragma unroll
      for (int j = 0; j < plain_part; ++j) {
        const std::int64_t row = tile.row + y + i * plain_threads, column = tile.column + x + j * plain_threads;
        if (row >= height || column >= problem.n) continue;
        T& value = to[row * problem.n + column];
        value = beta == T{0} ? sums[i][j] : sums[i][j] + beta * value;
      }
  }
}

/// f(std::bool_constant) for a condition that is known when the program runs.
template <class F>
void with(bool condition, F&& f) {
  if (condition)
    f(std::true_type());
  else
    f(std::false_type());
}

template <bool Terms, class T, class B, class C>
void run(const Cuda& cuda, const GroupedProblem& problem, Transpose transpose_b, const T* a, const B* b, double beta,
         C* c) {
  if (problem.groups > most_groups)
    throw std::runtime_error("grouped product: " + std::to_string(problem.groups) + " groups, expected at most " +
                             std::to_string(most_groups));
  if (problem.groups == 0 || problem.n == 0 || (Terms && problem.m == 0)) return;
  const std::size_t table = static_cast<std::size_t>(problem.groups) * sizeof(std::int64_t);
  const dim3 blocks(static_cast<unsigned>(2 * cuda.state->num_multiprocessors));
  with(transpose_b == Transpose::Yes, [&](auto transposed) {
    constexpr bool is_transposed = decltype(transposed)::value;
    if constexpr (Terms && is_transposed) {
      return;  // terms are never stored so
    } else if constexpr (std::is_same_v<T, bf16>) {
      if constexpr (Terms) {
        if (hopper_grouped_product_of_terms(cuda, problem, a, b, static_cast<float>(beta), c)) return;
      } else if constexpr (std::is_same_v<C, bf16>) {
        if (hopper_grouped_product(cuda, problem, transpose_b, a, b, static_cast<float>(beta), c)) return;
      }
      const bool is_whole = problem.k % 8 == 0 && problem.n % 8 == 0 && problem.m % 8 == 0 && are_aligned<8>(a, b) &&
                            are_aligned<16 / sizeof(C)>(c);
      with(is_whole, [&](auto aligned) {
        constexpr bool are_aligned = decltype(aligned)::value;
        gpu::launch(cuda, product_kernel<Terms, is_transposed, are_aligned, C>, blocks, dim3(mma_threads),
                    stages * Factors<Terms, is_transposed>::stage_bytes + table, problem, a, b,
                    static_cast<float>(beta), c);
      });
    } else {
      gpu::launch(cuda, plain_kernel<T, B, Terms, is_transposed>, blocks, dim3(plain_threads * plain_threads), table,
                  problem, a, b, static_cast<T>(beta), c);
    }
  });
}

}  // namespace

template <class T, class B, class C>
void grouped_product(const Cuda& cuda, const GroupedShape& shape, const std::int64_t* offsets, const T* rows,
                     const B* b, double beta, C* y) {
  run<false>(cuda, {.groups = shape.groups, .n = shape.n, .k = shape.k, .offsets = offsets}, shape.transpose_b, rows, b,
             beta, y);
}

template <class T, class C>
void grouped_product_of_terms(const Cuda& cuda, std::int64_t groups, std::int64_t m, std::int64_t n,
                              const std::int64_t* offsets, const T* a, const T* b, double beta, C* c) {
  run<true>(cuda, {.groups = groups, .m = m, .n = n, .offsets = offsets, .groups_are_terms = true}, Transpose::No, a, b,
            beta, c);
}

#define LIMBECK_INSTANTIATE(T, B, C) \
  template void grouped_product(const Cuda&, const GroupedShape&, const std::int64_t*, const T*, const B*, double, C*);
LIMBECK_INSTANTIATE(float, float, float)
LIMBECK_INSTANTIATE(float, bf16, float)
LIMBECK_INSTANTIATE(double, double, double)
LIMBECK_INSTANTIATE(double, bf16, double)
LIMBECK_INSTANTIATE(bf16, bf16, bf16)
LIMBECK_INSTANTIATE(bf16, bf16, float)

#define LIMBECK_INSTANTIATE_TERMS(T, C)                                                                              \
  template void grouped_product_of_terms(const Cuda&, std::int64_t, std::int64_t, std::int64_t, const std::int64_t*, \
                                         const T*, const T*, double, C*);
LIMBECK_INSTANTIATE_TERMS(float, float)
LIMBECK_INSTANTIATE_TERMS(double, double)
LIMBECK_INSTANTIATE_TERMS(bf16, float)

}  // namespace limbeck::kernels
