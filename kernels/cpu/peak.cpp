#include "kernels/peak.h"

#include <array>
#include <experimental/simd>

#include "kernels/cpu/tile_products.h"

namespace limbeck::kernels {

namespace {
using Vector = std::experimental::native_simd<float>;
// Two pipes of four or five cycles' latency need 8 to 10 chains; with the two factors they fill 16 registers at most.
constexpr std::size_t num_chains = 12;
}  // namespace

float fma_loop(const Cpu&, std::int64_t iterations) {
  std::array<Vector, num_chains> chains;
  // Not from 1, the fixed point: the compiler sees that such a chain is constant and leaves it out.
  for (std::size_t i = 0; i < num_chains; ++i) chains[i] = Vector(static_cast<float>(i + 2));
  const Vector factor(0.999F);
  const Vector term(0.001F);
  for (std::int64_t n = 0; n < iterations; ++n) {
#pragma GCC unroll 12
    for (std::size_t i = 0; i < num_chains; ++i) chains[i] = chains[i] * factor + term;
  }
  Vector sum(0.0F);
  for (const Vector& chain : chains) sum += chain;
  return std::experimental::reduce(sum);
}

double fma_loop_flops(std::int64_t iterations) {
  return 2.0 * static_cast<double>(num_chains) * static_cast<double>(Vector::size()) * static_cast<double>(iterations);
}

namespace {
constexpr std::int64_t tile_blocks = 8;  // both factors take a third of a first cache of 48 KiB
constexpr std::int64_t factor_values = tile_rows * block_depth * tile_blocks;
}  // namespace

float bf16_loop(const Cpu&, std::int64_t iterations) {
  alignas(64) static constexpr std::array<bf16, factor_values> zeros{};
  alignas(64) float tile[tile_rows * tile_columns] = {};
  const TileProduct& product = tile_products().front();
  product.begin();
  for (std::int64_t i = 0; i < iterations; ++i)
    product.run(zeros.data(), block_depth * tile_blocks, tile_rows, zeros.data(), tile_blocks, true, tile);
  product.end();
  return tile[0];
}

double bf16_loop_flops(std::int64_t iterations) {
  return 2.0 * static_cast<double>(tile_columns) * static_cast<double>(factor_values) * static_cast<double>(iterations);
}

}  // namespace limbeck::kernels
