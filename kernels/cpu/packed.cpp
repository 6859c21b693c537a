#include "kernels/packed.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels/cpu/cpu_cache.h"
#include "kernels/cpu/pack_panels.h"
#include "kernels/cpu/parallel_for.h"
#include "kernels/cpu/tile_products.h"

namespace limbeck::kernels {
namespace {

constexpr std::int64_t tile_values = tile_rows * tile_columns;
constexpr std::int64_t blocks_at_once = 64;          // of a sum, so that A's rows and panels fit a cache;
constexpr std::int64_t blocks_of_deep = 16;          // of one of more
constexpr std::int64_t blocks_of_group = 256;        // of the panels that rows are multiplied with in turn: 512 KiB
constexpr std::int64_t rows_at_once = 256;           // that are multiplied with a group of panels
constexpr std::int64_t most_tiles_of_deep = 128;     // of a task that keeps sums between its passes: 512 KiB
constexpr std::int64_t most_pieces = 8;              // of sums, and
constexpr std::int64_t most_tiles_of_pieces = 2048;  // of all of them: 8 MiB
constexpr std::int64_t streamed_bytes = 1 << 21;     // from which on a result is not worth a place in a cache

std::int64_t whole_blocks(std::int64_t k) { return (k + block_depth - 1) / block_depth; }
std::int64_t whole_panels(std::int64_t n) { return (n + tile_columns - 1) / tile_columns; }
std::int64_t whole_tiles(std::int64_t m) { return (m + tile_rows - 1) / tile_rows; }

/// C (+)= A B, of parts of matrices.
template <class C>
struct Product {
  Transpose transpose_a = Transpose::No;
  std::int64_t m = 0, n = 0, k = 0;
  const bf16* a = nullptr;  // [m,k], or [k,m] if transposed, with
  std::int64_t a_step = 0;  // from row to row
  RightFactor b;            // one
  float beta = 0;
  C* c = nullptr;  // [m,n]

  // Long sums of few results are made in pieces, by several tasks: so many,
  std::int64_t pieces = 1;
  float* sums = nullptr;  // of all tiles each, row of tiles by row

  std::int64_t tiles() const { return whole_tiles(m) * whole_panels(n); }
};

/// By the extents alone: bits depend on it.
template <class C>
std::int64_t pieces_of(const Product<C>& p) {
  return std::clamp<std::int64_t>(std::min(whole_blocks(p.k) / blocks_at_once, most_tiles_of_pieces / p.tiles()), 1,
                                  most_pieces);
}

/// Rows and panels of a product that one thread makes.
struct Task {
  std::size_t product = 0;
  std::int64_t first_row = 0, end_row = 0;
  std::int64_t first_panel = 0, end_panel = 0;
  std::int64_t piece = 0;  // of the sums
};

/// A range of a product's blocks of terms.
struct Terms {
  std::int64_t first = 0, count = 0;
};

/// Packed panels, `step` values apart.
struct Panels {
  const bf16* first = nullptr;
  std::int64_t step = 0;
};

/// Rows of the left factor, whole blocks long: where they lie, or copies.
struct Rows {
  const bf16* first = nullptr;
  std::int64_t step = 0;
};

/// Columns of a tile's row -> C.
template <class C>
void store_row(const float* __restrict sums, std::int64_t columns, float beta, C* __restrict c) {
  const auto store = [&](std::int64_t n) {
    if (beta == 0) {
#pragma omp simd
      for (std::int64_t j = 0; j < n; ++j) c[j] = as<C>(sums[j]);
    } else {
#pragma omp simd
      for (std::int64_t j = 0; j < n; ++j) c[j] = as<C>(sums[j] + beta * as<float>(c[j]));
    }
  };
  if (columns == tile_columns)
    store(tile_columns);
  else
    store(columns);
}

/// Terms by terms, so many that rows and panels stay in the caches; of these, group of panels by group; of these, some
/// rows at a time. A tile's row of panels is stored from left to right.
template <class C>
class TaskRun {
 public:
  TaskRun(const TileProduct& tiles, const Product<C>& product, const Task& task, TaskScratch& scratch)
      : tiles_(tiles), p_(product), task_(task), scratch_(scratch), blocks_(whole_blocks(product.k)) {
    const bool is_large = p_.m * p_.n * static_cast<std::int64_t>(sizeof(C)) >= streamed_bytes;
    streams_ = is_large && p_.beta == 0 && p_.n % half == 0 && reinterpret_cast<std::uintptr_t>(p_.c) % 64 == 0;
    if (p_.pieces == 1) return;
    sums_step_ = whole_panels(p_.n);
    sums_ = p_.sums +
            (task.piece * whole_tiles(p_.m) * sums_step_ + task.first_row / tile_rows * sums_step_ + task.first_panel) *
                tile_values;
  }

  void run() {
    const std::int64_t panels = task_.end_panel - task_.first_panel;
    const std::int64_t depth = blocks_ > blocks_at_once ? blocks_of_deep : blocks_;
    if (blocks_ > depth && p_.pieces == 1) {
      sums_step_ = panels;
      sums_ = scratch_.sums.get<float>(whole_tiles(task_.end_row - task_.first_row) * panels * tile_values);
    }
    const std::int64_t group = std::clamp<std::int64_t>(blocks_of_group / depth, 1, panels);
    first_block_ = first_of(task_.piece);
    end_block_ = first_of(task_.piece + 1);
    tiles_.begin();
    for (std::int64_t block = first_block_; block < end_block_; block += depth)
      for (std::int64_t panel = task_.first_panel; panel < task_.end_panel; panel += group)
        run({block, std::min(depth, end_block_ - block)}, panel, std::min(group, task_.end_panel - panel));
    tiles_.end();
  }

  /// C, of the sums' pieces.
  void add_pieces() {
    tiles_.begin();
    alignas(64) float tile[tile_values];
    for (std::int64_t row = task_.first_row; row < task_.end_row; row += tile_rows)
      for (std::int64_t panel = task_.first_panel; panel < task_.end_panel; ++panel) {
        const float* piece = sums_of(row, panel);
        std::copy_n(piece, tile_values, tile);
        for (std::int64_t i = 1; i < p_.pieces; ++i) {
          piece += p_.tiles() * tile_values;
#pragma omp simd
          for (std::int64_t j = 0; j < tile_values; ++j) tile[j] += piece[j];
        }
        store(tile, row, std::min(tile_rows, task_.end_row - row), panel * tile_columns);
      }
    tiles_.end();
  }

 private:
  /// Whole steps of a deep product, and so whole blocks of any weight in blocks.
  std::int64_t first_of(std::int64_t piece) const {
    const std::int64_t steps = (blocks_ + blocks_of_deep - 1) / blocks_of_deep;
    return std::min(steps * piece / p_.pieces * blocks_of_deep, blocks_);
  }

  void run(const Terms& blocks, std::int64_t first_panel, std::int64_t panels) {
    alignas(64) float tile[tile_values];
    const Panels b = packed(blocks, first_panel, panels);
    for (std::int64_t first = task_.first_row; first < task_.end_row; first += rows_at_once) {
      const std::int64_t end = std::min(first + rows_at_once, task_.end_row);
      copy_rows(blocks, first, end);
      for (std::int64_t row = first; row < end; row += tile_rows) {
        const std::int64_t rows = std::min(tile_rows, end - row);
        const Rows a = rows_from(blocks, row, rows);
        for (std::int64_t i = 0; i < panels; ++i) {
          float* to = sums_ == nullptr ? tile : sums_of(row, first_panel + i);
          tiles_.run(a.first, a.step, rows > tile_rows / 2 ? tile_rows : tile_rows / 2, b.first + i * b.step,
                     blocks.count, blocks.first > first_block_, to);
          if (p_.pieces == 1 && blocks.first + blocks.count == blocks_)
            store(to, row, rows, (first_panel + i) * tile_columns);
        }
      }
    }
  }

  Panels packed(const Terms& blocks, std::int64_t first, std::int64_t panels) {
    if (p_.b.packed != nullptr)
      return {p_.b.packed + (first * blocks_ + blocks.first) * panel_block, blocks_ * panel_block};
    bf16* to = scratch_.panels.get<bf16>(panels * blocks.count * panel_block);
    if (p_.b.blocks.data != nullptr)
      expand_panels(blocks, first, panels, to);
    else if (p_.b.wide != nullptr)
      pack_panels(tiles_, p_.b.transpose, p_.k, p_.n, p_.b.wide, first, panels, blocks.first, blocks.count, to);
    else
      pack_panels(tiles_, p_.b.transpose, p_.k, p_.n, p_.b.narrow, first, panels, blocks.first, blocks.count, to);
    return {to, blocks.count * panel_block};
  }

  /// Of a factor in blocks: panel by panel, its columns are rows there.
  void expand_panels(const Terms& blocks, std::int64_t first, std::int64_t panels, bf16* to) {
    const std::int64_t depth = blocks.first * block_depth, count = std::min(blocks.count * block_depth, p_.k - depth);
    const std::int64_t elements = size_of(p_.b.blocks.format).elements;
    float* values = scratch_.values.get<float>(tile_columns * count);
    for (std::int64_t panel = first; panel < first + panels; ++panel, to += blocks.count * panel_block) {
      const std::int64_t column = panel * tile_columns, columns = std::min(tile_columns, p_.n - column);
      for (std::int64_t j = 0; j < columns; ++j)
        expand(p_.b.blocks.from((column + j) * p_.k + depth), count / elements, values + j * count);
      pack_panels(tiles_, Transpose::Yes, count, columns, values, 0, 1, 0, blocks.count, to);
    }
  }

  /// Copies of rows [first, end) what cannot be read where it lies: columns, rows that are no whole blocks, and the
  /// last ones of no whole tile. And what is better not: rows that begin within lines, where they are read often.
  void copy_rows(const Terms& blocks, std::int64_t first, std::int64_t end) {
    const bool straddles = (reinterpret_cast<std::uintptr_t>(p_.a) % 64 != 0 || p_.a_step % block_depth != 0) &&
                           task_.end_panel - task_.first_panel > 4;
    const bool all =
        p_.transpose_a == Transpose::Yes || (blocks.first + blocks.count) * block_depth > p_.k || straddles;
    const std::int64_t beyond = (end - first) % tile_rows;
    first_copied_ = all ? first : beyond == tile_rows / 2 ? end : end - beyond;
    if (first_copied_ == end) return;
    // Not a power of two: rows of one tile would share a few lines of the cache.
    copy_step_ = (blocks.count + 1) * block_depth;
    copies_ = scratch_.rows.get<bf16>((end - first_copied_ + tile_rows - 1) / tile_rows * tile_rows * copy_step_);
    for (std::int64_t row = first_copied_; row < end; row += tile_rows)
      for (std::int64_t block = 0; block < blocks.count; ++block) {
        bf16* to = copies_ + (row - first_copied_) * copy_step_ + block * block_depth;
        const std::int64_t depth = (blocks.first + block) * block_depth;
        alignas(64) bf16 values[tile_rows][block_depth];
        Pairs upper[half], lower[half];
        if (p_.transpose_a == Transpose::Yes) {
          read_block(tiles_, p_.a + depth * p_.a_step + row, p_.a_step, p_.k - depth, end - row, values);
          for (std::int64_t i = 0; i < half; ++i) pairs_of_rows(values[2 * i], values[2 * i + 1], upper[i], lower[i]);
          transpose(upper);
          transpose(lower);
        } else {
          read_block(tiles_, p_.a + row * p_.a_step + depth, p_.a_step, end - row, p_.k - depth, values);
          pairs_of_block(values, upper);
          pairs_of_block(values + half, lower);
        }
        for (std::int64_t i = 0; i < half; ++i) {
          std::memcpy(static_cast<void*>(to + i * copy_step_), &upper[i], sizeof(Pairs));
          std::memcpy(static_cast<void*>(to + (half + i) * copy_step_), &lower[i], sizeof(Pairs));
        }
      }
  }
  Rows rows_from(const Terms& blocks, std::int64_t row, std::int64_t rows) const {
    if (row + rows <= first_copied_) return {p_.a + row * p_.a_step + blocks.first * block_depth, p_.a_step};
    return {copies_ + (row - first_copied_) * copy_step_, copy_step_};
  }
  float* sums_of(std::int64_t row, std::int64_t panel) const {
    return sums_ + ((row - task_.first_row) / tile_rows * sums_step_ + panel - task_.first_panel) * tile_values;
  }

  void store(const float* tile, std::int64_t row, std::int64_t rows, std::int64_t column) const {
    C* c = p_.c + row * p_.n + column;
    const std::int64_t columns = std::min(tile_columns, p_.n - column);
    if (columns == tile_columns) {
      if constexpr (std::is_same_v<C, bf16>) {
        if (p_.beta == 0) return tiles_.round(tile, tile_columns, rows, c, p_.n);
      } else {
        if (streams_) return tiles_.stream(tile, rows, c, p_.n);
      }
    }
    for (std::int64_t i = 0; i < rows; ++i) store_row(tile + i * tile_columns, columns, p_.beta, c + i * p_.n);
  }

  const TileProduct& tiles_;
  const Product<C>& p_;
  const Task& task_;
  TaskScratch& scratch_;
  std::int64_t blocks_;
  bool streams_ = false;
  std::int64_t first_block_ = 0, end_block_ = 0;
  float* sums_ = nullptr;  // of the task's tiles, where they are kept between blocks
  std::int64_t sums_step_ = 0;
  std::int64_t first_copied_ = 0;
  std::int64_t copy_step_ = 0;
  bf16* copies_ = nullptr;
};

/// Cuts products into enough tasks to keep all threads busy to the end. Where the tasks pack panels, or copy columns,
/// none is cut so that many do it again.
template <class C>
std::vector<Task> cut(const Cpu& cpu, const std::vector<Product<C>>& products) {
  double all = 0;
  const auto work = [](const Product<C>& p) {
    return static_cast<double>(p.m) * static_cast<double>(p.n) * static_cast<double>(p.k);
  };
  for (const auto& p : products) all += work(p);
  std::vector<Task> tasks;
  for (std::size_t i = 0; i < products.size(); ++i) {
    const Product<C>& p = products[i];
    const std::int64_t panels = whole_panels(p.n), tiles = whole_tiles(p.m);
    const double share = work(p) / all / static_cast<double>(p.pieces);
    const auto wanted =
        cpu.threads == 1 ? 1 : static_cast<std::int64_t>(std::ceil(share * static_cast<double>(6 * cpu.threads)));
    const std::int64_t most_rows = std::max<std::int64_t>(tiles / 4, 1),
                       most_panels = std::max<std::int64_t>(panels / 4, 1);
    const bool packs = p.b.packed == nullptr && p.transpose_a == Transpose::No;
    std::int64_t down = 1, across = 1;
    if (packs) {
      across = std::min(wanted, most_panels);
      down = std::min((wanted + across - 1) / across, most_rows);
    } else {
      down = std::min(wanted, most_rows);
      across = std::min((wanted + down - 1) / down, most_panels);
    }
    if (whole_blocks(p.k) > blocks_at_once) {
      across = std::max(across, (panels + 15) / 16);
      const std::int64_t of_task = std::max<std::int64_t>(most_tiles_of_deep / ((panels + across - 1) / across), 1);
      down = std::max(down, (tiles + of_task - 1) / of_task);
    }
    for (std::int64_t piece = 0; piece < p.pieces; ++piece)
      for (std::int64_t row = 0; row < down; ++row)
        for (std::int64_t part = 0; part < across; ++part)
          tasks.push_back({i, tiles * row / down * tile_rows, std::min(tiles * (row + 1) / down * tile_rows, p.m),
                           panels * part / across, panels * (part + 1) / across, piece});
  }
  return tasks;
}

/// Says in how many pieces sums are made, and gives those of several room.
template <class C>
void place_pieces(Scratch& scratch, std::vector<Product<C>>& products) {
  std::int64_t tiles = 0;
  for (auto& p : products) {
    p.pieces = pieces_of(p);
    if (p.pieces > 1) tiles += p.pieces * p.tiles();
  }
  if (tiles == 0) return;
  auto* sums = scratch.get<float>(tiles * tile_values);
  for (auto& p : products) {
    if (p.pieces == 1) continue;
    p.sums = sums;
    sums += p.pieces * p.tiles() * tile_values;
  }
}

template <class C>
void run(const Cpu& cpu, std::vector<Product<C>> products) {
  place_pieces(cpu.cache->pieces, products);
  const std::vector<Task> tasks = cut(cpu, products);
  const TileProduct& tiles = tile_products()[cpu.cache->tile_product];
  cpu.cache->tasks.resize(static_cast<std::size_t>(cpu.threads));
  std::atomic<std::size_t> next = 0;
  for_each_task(
      cpu, std::ssize(tasks), [&] { return &cpu.cache->tasks[next++]; },
      [&](std::int64_t i, TaskScratch* scratch) {
        TaskRun<C>(tiles, products[tasks[i].product], tasks[i], *scratch).run();
      });
  for (const auto& p : products)
    if (p.pieces > 1)
      parallel_for(cpu, whole_tiles(p.m), 1, [&](std::int64_t begin, std::int64_t end) {
        const Task rows{
            .first_row = begin * tile_rows, .end_row = std::min(end * tile_rows, p.m), .end_panel = whole_panels(p.n)};
        TaskRun<C>(tiles, p, rows, cpu.cache->tasks[0]).add_pieces();
      });
}

/// C = beta C where there is nothing to add.
template <class C>
bool is_empty(const Product<C>& p) {
  if (p.m == 0 || p.n == 0) return true;
  if (p.k > 0) return false;
  for (std::int64_t i = 0; i < p.m * p.n; ++i)
    p.c[i] = p.beta == 0 ? C(0.F) : static_cast<C>(p.beta * static_cast<float>(p.c[i]));
  return true;
}

template <class C>
void run_nonempty(const Cpu& cpu, std::vector<Product<C>> products) {
  std::erase_if(products, is_empty<C>);
  run(cpu, std::move(products));
}

/// Number e of factors [k,n].
RightFactor factor(const RightFactor& b, std::int64_t e, std::int64_t k, std::int64_t n) {
  if (b.packed != nullptr) return {b.packed + e * packed_elements(k, n)};
  if (b.blocks.data != nullptr) return {b.blocks.from(e * k * n)};
  if (b.wide != nullptr) return {b.transpose, b.wide + e * k * n};
  return {b.transpose, b.narrow + e * k * n};
}

}  // namespace

void round_rows(const float* from, std::int64_t from_step, std::int64_t rows, bf16* to, std::int64_t to_step) {
  for (std::int64_t i = 0; i < rows; ++i) store_row(from + i * from_step, tile_columns, 0, to + i * to_step);
}

void copy_tile(const float* tile, std::int64_t rows, float* c, std::int64_t step) {
  for (std::int64_t i = 0; i < rows; ++i) store_row(tile + i * tile_columns, tile_columns, 0, c + i * step);
}

template <class D, class W>
void pack(const D& cpu, std::int64_t count, Transpose transpose_b, std::int64_t k, std::int64_t n, const W* b,
          bf16* packed) {
  constexpr std::int64_t at_once = 4;  // neighbours in memory
  const std::int64_t panels = whole_panels(n), groups = (panels + at_once - 1) / at_once, blocks = whole_blocks(k);
  const TileProduct& tiles = tile_products()[cpu.cache->tile_product];
  parallel_for(cpu, count * groups, 1 + (1 << 12) / (blocks * panel_block + 1),
               [=, &tiles](std::int64_t begin, std::int64_t end) {
                 for (std::int64_t i = begin; i < end; ++i) {
                   const std::int64_t e = i / groups, panel = i % groups * at_once;
                   pack_panels(tiles, transpose_b, k, n, b + e * k * n, panel, std::min(at_once, panels - panel), 0,
                               blocks, packed + (e * panels + panel) * blocks * panel_block);
                 }
               });
}

template <class D, class C>
void packed_matmul(const D& cpu, std::int64_t m, std::int64_t n, std::int64_t k, const bf16* a, const RightFactor& b,
                   float beta, C* c) {
  run_nonempty<C>(cpu, {{.m = m, .n = n, .k = k, .a = a, .a_step = k, .b = b, .beta = beta, .c = c}});
}

template <class D, class C>
void packed_grouped_matmul(const D& cpu, std::int64_t groups, std::int64_t n, std::int64_t k,
                           const std::int64_t* offsets, const bf16* rows, const RightFactor& b, float beta, C* y) {
  std::vector<Product<C>> products;
  for (std::int64_t e = 0; e < groups; ++e)
    products.push_back({.m = offsets[e + 1] - offsets[e],
                        .n = n,
                        .k = k,
                        .a = rows + offsets[e] * k,
                        .a_step = k,
                        .b = factor(b, e, k, n),
                        .beta = beta,
                        .c = y + offsets[e] * n});
  run_nonempty<C>(cpu, std::move(products));
}

template <class D, class C>
void matmul(const D& cpu, Transpose transpose_a, Transpose transpose_b, std::int64_t m, std::int64_t n, std::int64_t k,
            const bf16* a, const bf16* b, float beta, C* c) {
  run_nonempty<C>(cpu, {{.transpose_a = transpose_a,
                         .m = m,
                         .n = n,
                         .k = k,
                         .a = a,
                         .a_step = transpose_a == Transpose::Yes ? m : k,
                         .b = {transpose_b, b},
                         .beta = beta,
                         .c = c}});
}

template <class D>
void grouped_matmul_weight(const D& cpu, std::int64_t experts, std::int64_t in, std::int64_t out,
                           const std::int64_t* offsets, const bf16* dy, const bf16* rows, float beta, float* dweight) {
  std::vector<Product<float>> products;
  for (std::int64_t e = 0; e < experts; ++e)
    products.push_back({.transpose_a = Transpose::Yes,
                        .m = out,
                        .n = in,
                        .k = offsets[e + 1] - offsets[e],
                        .a = dy + offsets[e] * out,
                        .a_step = out,
                        .b = {Transpose::No, rows + offsets[e] * in},
                        .beta = beta,
                        .c = dweight + e * out * in});
  run_nonempty<float>(cpu, std::move(products));
}

#define LIMBECK_INSTANTIATE(C)                                                                                       \
  template void packed_matmul(const Cpu&, std::int64_t, std::int64_t, std::int64_t, const bf16*, const RightFactor&, \
                              float, C*);                                                                            \
  template void packed_grouped_matmul(const Cpu&, std::int64_t, std::int64_t, std::int64_t, const std::int64_t*,     \
                                      const bf16*, const RightFactor&, float, C*);                                   \
  template void matmul(const Cpu&, Transpose, Transpose, std::int64_t, std::int64_t, std::int64_t, const bf16*,      \
                       const bf16*, float, C*);
LIMBECK_INSTANTIATE(float)
LIMBECK_INSTANTIATE(bf16)
template void pack(const Cpu&, std::int64_t, Transpose, std::int64_t, std::int64_t, const float*, bf16*);
template void pack(const Cpu&, std::int64_t, Transpose, std::int64_t, std::int64_t, const bf16*, bf16*);
template void grouped_matmul_weight(const Cpu&, std::int64_t, std::int64_t, std::int64_t, const std::int64_t*,
                                    const bf16*, const bf16*, float, float*);

}  // namespace limbeck::kernels
