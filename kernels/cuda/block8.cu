#include "kernels/block8.h"

#include <bit>
#include <cstdint>

#include "kernels/cuda/adamw_update.cuh"
#include "kernels/cuda/grad_scale.cuh"
#include "kernels/cuda/grid.h"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/vector.cuh"

namespace limbeck::kernels {
namespace {

using Fractions = std::array<float, block8_size>;

/// A map's fractions and their midpoints in shared memory, and where the search of a code begins: floats with the same
/// upper 16 bits have at most one midpoint between them (kernels/cpu/block8.h), so the code of a fraction is that of
/// the least of them, or the next one. Magnitudes below 2^-24, under every midpoint but that of 0, count as that.
struct Table {
  static constexpr int lowest = 103 << 7, keys = (127 << 7) - lowest + 1;  // the upper bits of 2^-24, up to 1
  float fractions[block8_size];
  float midpoints[block8_size];       // the last is above everything
  std::uint8_t least_code[2 * keys];  // of positive ones, then of negative ones

  __device__ static int key(float fraction) {
    const auto upper = static_cast<int>(std::bit_cast<std::uint32_t>(fraction) >> 16U);
    const int magnitude = upper & 0x7fff;
    return (magnitude < lowest ? 0 : magnitude - lowest) + (upper >> 15) * keys;
  }
  /// The number of midpoints below the fraction, which is in [-1, 1]; 0 for a NaN.
  __device__ int code(float fraction) const {
    if (fraction != fraction) return 0;
    const int code = least_code[key(fraction)];
    return code + (midpoints[code] < fraction ? 1 : 0);
  }
  /// By the whole block; they are there for it after a barrier.
  __device__ void make(const Fractions& from) {
    for (int i = static_cast<int>(threadIdx.x); i < block8_size; i += static_cast<int>(blockDim.x)) {
      fractions[i] = from[static_cast<std::size_t>(i)];
      midpoints[i] = i + 1 < block8_size
                         ? (from[static_cast<std::size_t>(i)] + from[static_cast<std::size_t>(i) + 1]) / 2
                         : std::bit_cast<float>(0x7f800000U);
    }
    __syncthreads();
    for (int k = static_cast<int>(threadIdx.x); k < 2 * keys; k += static_cast<int>(blockDim.x)) {
      const bool is_negative = k >= keys;  // the least of them has the greatest magnitude
      const auto upper = static_cast<std::uint32_t>(k % keys + lowest) << 16U;
      const float least = std::bit_cast<float>(is_negative ? 0x80000000U | upper | 0xffffU : k == 0 ? 0U : upper);
      int below = 0;  // midpoints below it
      for (int half = block8_size / 2; half > 0; half /= 2)
        if (midpoints[below + half - 1] < least) below += half;
      least_code[k] = static_cast<std::uint8_t>(below);
    }
  }
};

// A warp has a block of 256 values, each lane eight: four from lane * 4 on, four from 128 + lane * 4 on.
constexpr int groups = 2, in_group = 4;

struct Lane {
  float v[groups][in_group];
};

/// f(group, j, i) for the lane's values of the first `count` of a block, i their place.
template <class F>
__device__ void for_each_value(int count, F f) {
  const int lane = static_cast<int>(threadIdx.x % warp_size);
#pragma unroll
  for (int g = 0; g < groups; ++g)
#pragma unroll
    for (int j = 0; j < in_group; ++j) {
      const int i = (g * static_cast<int>(warp_size) + lane) * in_group + j;
      if (i < count) f(g, j, i);
    }
}

/// The lane's values of x from the block's first on, read by vectors where it is whole.
template <class T>
__device__ Lane read(const T* x, int count, bool whole) {
  const int lane = static_cast<int>(threadIdx.x % warp_size);
  Lane all{};
  if (whole) {
#pragma unroll
    for (int g = 0; g < groups; ++g) {
      const auto v = load<in_group>(x + (g * static_cast<int>(warp_size) + lane) * in_group);
#pragma unroll
      for (int j = 0; j < in_group; ++j) all.v[g][j] = static_cast<float>(v[j]);
    }
  } else {
    for_each_value(count, [&](int g, int j, int i) { all.v[g][j] = as<float>(x[i]); });
  }
  return all;
}

template <class T>
__device__ void write(T* x, const Lane& all, int count, bool whole) {
  const int lane = static_cast<int>(threadIdx.x % warp_size);
  if (whole) {
#pragma unroll
    for (int g = 0; g < groups; ++g) {
      Values<float, in_group> v;
#pragma unroll
      for (int j = 0; j < in_group; ++j) v[j] = all.v[g][j];
      store(x + (g * static_cast<int>(warp_size) + lane) * in_group, v);
    }
  } else {
    for_each_value(count, [&](int g, int j, int i) { x[i] = rounded<T>(all.v[g][j]); });
  }
}

__device__ Lane decoded(const Table& table, const std::uint8_t* codes, float scale, int count, bool whole) {
  Lane all = read(codes, count, whole);
  for_each_value(count,
                 [&](int g, int j, int) { all.v[g][j] = table.fractions[static_cast<int>(all.v[g][j])] * scale; });
  return all;
}

__device__ void encode(const Table& table, Lane all, std::uint8_t* codes, float* scale, int count, bool whole) {
  constexpr float least = 0x1p-100F;  // as kernels/cpu/block8.h
  float greatest = 0;
  for_each_value(count, [&](int g, int j, int) { greatest = Larger{}(greatest, std::fabs(all.v[g][j])); });
  greatest = warp_reduce(greatest, Larger{});
  if (threadIdx.x % warp_size == 0) *scale = greatest > least ? greatest : 0;
  for_each_value(count, [&](int g, int j, int) {
    all.v[g][j] = greatest > least ? static_cast<float>(table.code(all.v[g][j] / greatest)) : 0;
  });
  write(codes, all, count, whole);
}

/// f(first, count, block) for the blocks of n values by the grid's warps in turn.
template <class F>
__device__ void for_each_block(std::int64_t n, F f) {
  const std::int64_t warps = blockDim.x / warp_size;
  for (std::int64_t b = blockIdx.x * warps + threadIdx.x / warp_size; b * block8_size < n; b += gridDim.x * warps) {
    const std::int64_t first = b * block8_size;
    f(first, static_cast<int>(n - first < block8_size ? n - first : block8_size), b);
  }
}

__global__ void encode_kernel(const __grid_constant__ Fractions fractions, const float* x, std::int64_t n,
                              Block8 blocks, bool aligned) {
  __shared__ Table table;
  table.make(fractions);
  __syncthreads();
  for_each_block(n, [&](std::int64_t first, int count, std::int64_t b) {
    const bool whole = aligned && count == block8_size;
    encode(table, read(x + first, count, whole), blocks.codes + first, blocks.scales + b, count, whole);
  });
}

__global__ void decode_kernel(const __grid_constant__ Fractions fractions, Block8 blocks, std::int64_t n, float* x,
                              bool aligned) {
  __shared__ Table table;
  table.make(fractions);
  __syncthreads();
  for_each_block(n, [&](std::int64_t first, int count, std::int64_t b) {
    const bool whole = aligned && count == block8_size;
    write(x + first, decoded(table, blocks.codes + first, blocks.scales[b], count, whole), count, whole);
  });
}

struct Step {
  const AdamWFactors<float>* factors;
  const double* grad_scale;
  const float* dx;
  float* x;
  Block8 mean, mean_square;
  std::int64_t n;
  bf16* rounded;
  bool aligned;
};

__global__ void adamw_kernel(const __grid_constant__ Fractions of_means, const __grid_constant__ Fractions of_squares,
                             Step s) {
  if (!is_scale_finite(s.grad_scale)) return;
  const auto scale = read_scale<float>(s.grad_scale);
  const AdamWFactors<float> factors = *s.factors;
  __shared__ Table signs, squares;
  signs.make(of_means);
  squares.make(of_squares);
  __syncthreads();
  for_each_block(s.n, [&](std::int64_t first, int count, std::int64_t b) {
    const bool whole = s.aligned && count == block8_size;
    const Lane g = s.dx != nullptr ? read(s.dx + first, count, whole) : Lane{};
    Lane x = read(s.x + first, count, whole);
    Lane m = decoded(signs, s.mean.codes + first, s.mean.scales[b], count, whole);
    Lane v = decoded(squares, s.mean_square.codes + first, s.mean_square.scales[b], count, whole);
    for_each_value(count, [&](int group, int j, int) {
      adamw_update(factors, scale * g.v[group][j], x.v[group][j], m.v[group][j], v.v[group][j]);
    });
    write(s.x + first, x, count, whole);
    if (s.rounded != nullptr) write(s.rounded + first, x, count, whole);
    __syncwarp();  // all have read the scales
    encode(signs, m, s.mean.codes + first, s.mean.scales + b, count, whole);
    encode(squares, v, s.mean_square.codes + first, s.mean_square.scales + b, count, whole);
  });
}

dim3 blocks_of(const Cuda& cuda, std::int64_t n) {
  return blocks_for(cuda, ceil_div(block8_count(n), usual_threads / warp_size));
}

}  // namespace

template <class D>
void block8_encode(const D& cuda, Block8Map map, const float* x, std::int64_t n, Block8 blocks) {
  if (n == 0) return;
  gpu::launch(cuda, encode_kernel, blocks_of(cuda, n), dim3(usual_threads), 0, block8_fractions(map), x, n, blocks,
              are_aligned<in_group>(x, blocks.codes));
}

template <class D>
void block8_decode(const D& cuda, Block8Map map, Block8 blocks, std::int64_t n, float* x) {
  if (n == 0) return;
  gpu::launch(cuda, decode_kernel, blocks_of(cuda, n), dim3(usual_threads), 0, block8_fractions(map), blocks, n, x,
              are_aligned<in_group>(x, blocks.codes));
}

template <class D>
void adamw_block8(const D& cuda, const AdamWFactors<float>* factors, const double* grad_scale, const float* dx,
                  float* x, Block8 mean, Block8 mean_square, std::int64_t n, bf16* rounded) {
  if (n == 0) return;
  const bool aligned = are_aligned<in_group>(dx, x, mean.codes, mean_square.codes, rounded);
  gpu::launch(cuda, adamw_kernel, blocks_of(cuda, n), dim3(usual_threads), 0, block8_fractions(Block8Map::Signed),
              block8_fractions(Block8Map::Unsigned),
              Step{factors, grad_scale, dx, x, mean, mean_square, n, rounded, aligned});
}

template void block8_encode(const Cuda&, Block8Map, const float*, std::int64_t, Block8);
template void block8_decode(const Cuda&, Block8Map, Block8, std::int64_t, float*);
template void adamw_block8(const Cuda&, const AdamWFactors<float>*, const double*, const float*, float*, Block8, Block8,
                           std::int64_t, bf16*);

}  // namespace limbeck::kernels
