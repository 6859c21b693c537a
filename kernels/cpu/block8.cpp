#include "kernels/cpu/block8.h"

#include <limits>

#include "kernels/cpu/parallel_for.h"

namespace limbeck::kernels {
namespace {
constexpr std::int64_t grain = 64;  // blocks worth a thread

Block8Table make_table(Block8Map map) {
  constexpr std::array<double, 7> powers = {1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1};
  const bool is_signed = map == Block8Map::Signed;
  Block8Table table{};
  std::size_t at = is_signed ? 128 : 1;  // behind the zero
  for (std::size_t e = 0; e < powers.size(); ++e) {
    const std::size_t parts = std::size_t{is_signed ? 1U : 2U} << e;
    for (std::size_t k = 0; k < parts; ++k) {
      const double middle = 0.1 + 0.9 * (static_cast<double>(k) + 0.5) / static_cast<double>(parts);
      table.fractions[at++] = static_cast<float>(powers[e] * middle);
    }
  }
  table.fractions[255] = 1;
  if (is_signed) {
    for (std::size_t i = 1; i < 127; ++i) table.fractions[127 - i] = -table.fractions[127 + i];
    table.fractions[0] = -1;
  }
  for (std::size_t i = 0; i < 255; ++i) table.midpoints[i] = (table.fractions[i] + table.fractions[i + 1]) / 2;
  table.midpoints[255] = std::numeric_limits<float>::infinity();
  for (std::uint32_t key = 0; key < table.least_code.size(); ++key) {
    const bool is_negative = key >= 0x8000U;  // the least of them has the greatest magnitude
    const auto least = std::bit_cast<float>(key << 16U | (is_negative ? 0xffffU : 0U));
    table.least_code[key] = static_cast<std::uint8_t>(
        std::lower_bound(table.midpoints.begin(), table.midpoints.end() - 1, least) - table.midpoints.begin());
  }
  return table;
}

const Block8Table signed_table = make_table(Block8Map::Signed);
const Block8Table unsigned_table = make_table(Block8Map::Unsigned);

/// f(block, first, count) for every block of n values.
template <class F>
void for_each_block(const Cpu& cpu, std::int64_t n, F&& f) {
  parallel_for(cpu, block8_count(n), grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t b = begin; b < end; ++b) f(b, b * block8_size, std::min(block8_size, n - b * block8_size));
  });
}
}  // namespace

const Block8Table& block8_table(Block8Map map) { return map == Block8Map::Signed ? signed_table : unsigned_table; }

const std::array<float, 256>& block8_fractions(Block8Map map) { return block8_table(map).fractions; }

template <class D>
void block8_encode(const D& cpu, Block8Map map, const float* x, std::int64_t n, Block8 blocks) {
  const Block8Table& table = block8_table(map);
  for_each_block(cpu, n, [&](std::int64_t b, std::int64_t first, std::int64_t count) {
    encode_block(table, x + first, count, blocks.codes + first, blocks.scales[b]);
  });
}

template <class D>
void block8_decode(const D& cpu, Block8Map map, Block8 blocks, std::int64_t n, float* x) {
  const Block8Table& table = block8_table(map);
  for_each_block(cpu, n, [&](std::int64_t b, std::int64_t first, std::int64_t count) {
    decode_block(table, blocks.codes + first, blocks.scales[b], count, x + first);
  });
}

template void block8_encode(const Cpu&, Block8Map, const float*, std::int64_t, Block8);
template void block8_decode(const Cpu&, Block8Map, Block8, std::int64_t, float*);

}  // namespace limbeck::kernels
