#include "kernels/packed.h"

#include <algorithm>
#include <atomic>
#include <vector>

#include "kernels/cpu/cpu_cache.h"
#include "kernels/cpu/pack.h"
#include "kernels/cpu/parallel_for.h"
#include "kernels/cpu/tile_products.h"

namespace limbeck::kernels {
namespace {

constexpr std::int64_t half = tile_columns / 2;                   // columns that a block of a panel has together
constexpr std::int64_t panel_block = tile_columns * block_depth;  // values of a panel's block
constexpr std::int64_t blocks_at_once = 64;                       // a panel of so many lies in a second-level cache
constexpr std::int64_t most_rows = 256, most_rows_of_deep = 128;  // of a task: those of A do too
constexpr std::int64_t most_panels_of_deep = 16;                  // of a task that keeps sums between its passes

std::int64_t whole_blocks(std::int64_t k) { return (k + block_depth - 1) / block_depth; }
std::int64_t whole_panels(std::int64_t n) { return (n + tile_columns - 1) / tile_columns; }

/// The pairs of values [0,32) of a row of which `count` exist; the others are 0.
template <class W>
void pairs_along(const W* row, std::int64_t count, Pairs& pairs) {
  if (count >= block_depth) return pairs_of_row(row, pairs);
  W values[block_depth] = {};
  if (count > 0) std::copy_n(row, count, values);
  pairs_of_row(values, pairs);
}

/// The pairs that 16 values of a row make with those of the next, `step` on. Of `rows` and `columns` that exist.
template <class W>
void pairs_across(const W* row, std::int64_t step, std::int64_t rows, std::int64_t columns, Pairs& pairs) {
  if (rows >= 2 && columns >= half) return pairs_of_rows(row, row + step, pairs);
  W above[half] = {}, below[half] = {};
  const std::int64_t n = std::clamp<std::int64_t>(columns, 0, half);
  if (rows >= 1) std::copy_n(row, n, above);
  if (rows >= 2) std::copy_n(row + step, n, below);
  pairs_of_rows(above, below, pairs);
}

/// Panel number `panel` of op(B) [k,n].
template <class W>
void pack_panel(Transpose transpose_b, std::int64_t k, std::int64_t n, const W* b, std::int64_t panel, bf16* to) {
  for (std::int64_t first = 0; first < k; first += block_depth)
    for (std::int64_t column = panel * tile_columns; column < (panel + 1) * tile_columns; column += half) {
      Pairs pairs[half];
      for (std::int64_t i = 0; i < half; ++i) {
        if (transpose_b == Transpose::Yes) {
          const bool exists = column + i < n;
          pairs_along(exists ? b + (column + i) * k + first : b, exists ? k - first : 0, pairs[i]);
        } else {
          const std::int64_t row = first + 2 * i;
          pairs_across(row < k ? b + row * n + std::min(column, n) : b, n, k - row, n - column, pairs[i]);
        }
      }
      if (transpose_b == Transpose::Yes) transpose(pairs);
      std::memcpy(static_cast<void*>(to), pairs, sizeof pairs);
      to += half * block_depth;
    }
}

/// C (+)= A B, of parts of matrices.
template <class C>
struct Product {
  Transpose transpose_a = Transpose::No;
  std::int64_t m = 0, n = 0, k = 0;
  const bf16* a = nullptr;  // [m,k], or [k,m] if transposed, with
  std::int64_t a_step = 0;  // from row to row
  const bf16* packed = nullptr;
  float beta = 0;
  C* c = nullptr;  // [m,n]
};

/// Rows and panels of a product that one thread makes.
struct Task {
  std::size_t product = 0;
  std::int64_t first_row = 0, num_rows = 0;
  std::int64_t first_panel = 0, end_panel = 0;
};

/// Rows of the left factor, whole blocks long: where they lie, or copies.
struct Rows {
  const bf16* first = nullptr;
  std::int64_t step = 0;
};

/// Columns of a tile's row -> C. Whole rows are the rule.
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

template <class C>
class TaskRun {
 public:
  TaskRun(const TileProduct& tiles, const Product<C>& product, const Task& task, TaskScratch& scratch)
      : tiles_(tiles), p_(product), task_(task), scratch_(scratch), blocks_(whole_blocks(product.k)) {}

  void run() {
    const bool is_deep = blocks_ > blocks_at_once;
    const std::int64_t tiles_down = (task_.num_rows + tile_rows - 1) / tile_rows;
    const std::int64_t tiles_across = task_.end_panel - task_.first_panel;
    copy_rows();
    alignas(64) float tile[tile_rows * tile_columns];
    float* sums = is_deep ? scratch_.sums.get<float>(tiles_down * tiles_across * tile_rows * tile_columns) : nullptr;
    tiles_.begin();
    for (std::int64_t block = 0; block < blocks_; block += blocks_at_once) {
      const std::int64_t count = std::min(blocks_at_once, blocks_ - block);
      for (std::int64_t panel = task_.first_panel; panel < task_.end_panel; ++panel)
        for (std::int64_t i = 0; i < tiles_down; ++i) {
          const std::int64_t rows = std::min(tile_rows, task_.num_rows - i * tile_rows);
          const Rows a = rows_from(i * tile_rows);
          float* to = is_deep ? sums + ((panel - task_.first_panel) * tiles_down + i) * tile_rows * tile_columns : tile;
          tiles_.run(a.first + block * block_depth, a.step, rows > tile_rows / 2 ? tile_rows : tile_rows / 2,
                     p_.packed + (panel * blocks_ + block) * panel_block, count, block > 0, to);
          if (block + count == blocks_) store(to, task_.first_row + i * tile_rows, rows, panel * tile_columns);
        }
    }
    tiles_.end();
  }

 private:
  /// Copies what cannot be read where it lies: columns, rows that are no whole blocks, and the last ones of no whole
  /// tile.
  void copy_rows() {
    const bool all = p_.transpose_a == Transpose::Yes || p_.k % block_depth != 0;
    const std::int64_t beyond = task_.num_rows % tile_rows;
    first_copied_ = all ? 0 : beyond == tile_rows / 2 ? task_.num_rows : task_.num_rows - beyond;
    if (first_copied_ == task_.num_rows) return;
    // Not a power of two: rows of one tile would share a few lines of the cache.
    copy_step_ = blocks_ * block_depth + block_depth;
    const std::int64_t count = (task_.num_rows - first_copied_ + tile_rows - 1) / tile_rows * tile_rows;
    copies_ = scratch_.rows.get<bf16>(count * copy_step_);
    for (std::int64_t i = 0; i < count; i += half) {
      const std::int64_t row = first_copied_ + i;
      for (std::int64_t block = 0; block < blocks_; ++block) {
        Pairs pairs[half];
        for (std::int64_t j = 0; j < half; ++j) read_pairs(row, j, block * block_depth, pairs[j]);
        if (p_.transpose_a == Transpose::Yes) transpose(pairs);
        for (std::int64_t j = 0; j < half; ++j)
          std::memcpy(static_cast<void*>(copies_ + (i + j) * copy_step_ + block * block_depth), &pairs[j],
                      sizeof(Pairs));
      }
    }
  }
  /// Of the task's rows [row, row + 16): number j's pairs of a block; or, of a transposed factor, pair j of each row.
  void read_pairs(std::int64_t row, std::int64_t j, std::int64_t depth, Pairs& pairs) const {
    const std::int64_t left = task_.num_rows - row, at = task_.first_row + row;
    if (p_.transpose_a == Transpose::No) {
      const bool exists = j < left;
      pairs_along(exists ? p_.a + (at + j) * p_.a_step + depth : p_.a, exists ? p_.k - depth : 0, pairs);
    } else {
      const std::int64_t rows = p_.k - depth - 2 * j;
      pairs_across(rows > 0 && left > 0 ? p_.a + (depth + 2 * j) * p_.a_step + at : p_.a, p_.a_step, rows, left, pairs);
    }
  }
  Rows rows_from(std::int64_t row) const {
    if (row + std::min(tile_rows, task_.num_rows - row) <= first_copied_)
      return {p_.a + (task_.first_row + row) * p_.a_step, p_.a_step};
    return {copies_ + (row - first_copied_) * copy_step_, copy_step_};
  }
  void store(const float* tile, std::int64_t row, std::int64_t rows, std::int64_t column) const {
    const std::int64_t columns = std::min(tile_columns, p_.n - column);
    for (std::int64_t i = 0; i < rows; ++i)
      store_row(tile + i * tile_columns, columns, p_.beta, p_.c + (row + i) * p_.n + column);
  }

  const TileProduct& tiles_;
  const Product<C>& p_;
  const Task& task_;
  TaskScratch& scratch_;
  std::int64_t blocks_;
  std::int64_t first_copied_ = 0;  // of the task's rows
  std::int64_t copy_step_ = 0;
  bf16* copies_ = nullptr;
};

/// Cuts products into enough tasks to keep all threads busy to the end.
template <class C>
std::vector<Task> cut(const Cpu& cpu, const std::vector<Product<C>>& products) {
  const auto rows_of_task = [](const Product<C>& p) {
    return whole_blocks(p.k) > blocks_at_once ? most_rows_of_deep : most_rows;
  };
  std::int64_t row_blocks = 0;
  for (const auto& p : products) row_blocks += (p.m + rows_of_task(p) - 1) / rows_of_task(p);
  std::vector<Task> tasks;
  for (std::size_t i = 0; i < products.size(); ++i) {
    const Product<C>& p = products[i];
    const std::int64_t panels = whole_panels(p.n), rows = rows_of_task(p);
    // A copied left factor is copied again for each part of the panels.
    const std::int64_t wanted = cpu.threads == 1 ? 1 : (p.transpose_a == Transpose::Yes ? 2 : 4) * cpu.threads;
    std::int64_t parts = std::clamp<std::int64_t>(wanted / std::max<std::int64_t>(row_blocks, 1), 1, (panels + 3) / 4);
    if (rows == most_rows_of_deep) parts = std::max(parts, (panels + most_panels_of_deep - 1) / most_panels_of_deep);
    for (std::int64_t row = 0; row < p.m; row += rows)
      for (std::int64_t part = 0; part < parts; ++part)
        tasks.push_back({i, row, std::min(rows, p.m - row), panels * part / parts, panels * (part + 1) / parts});
  }
  return tasks;
}

template <class C>
void run(const Cpu& cpu, const std::vector<Product<C>>& products) {
  const std::vector<Task> tasks = cut(cpu, products);
  const TileProduct& tiles = tile_products()[cpu.cache->tile_product];
  cpu.cache->tasks.resize(static_cast<std::size_t>(cpu.threads));
  std::atomic<std::size_t> next = 0;
  for_each_task(
      cpu, std::ssize(tasks), [&] { return &cpu.cache->tasks[next++]; },
      [&](std::int64_t i, TaskScratch* scratch) {
        TaskRun<C>(tiles, products[tasks[i].product], tasks[i], *scratch).run();
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
  run(cpu, products);
}

}  // namespace

template <class W>
void pack(const Cpu& cpu, std::int64_t count, Transpose transpose_b, std::int64_t k, std::int64_t n, const W* b,
          bf16* packed) {
  const std::int64_t panels = whole_panels(n), panel_elements = whole_blocks(k) * panel_block;
  parallel_for(cpu, count * panels, 1 + (1 << 14) / (panel_elements + 1), [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i)
      pack_panel(transpose_b, k, n, b + i / panels * k * n, i % panels, packed + i * panel_elements);
  });
}

template <class C>
void packed_matmul(const Cpu& cpu, std::int64_t m, std::int64_t n, std::int64_t k, const bf16* a, const bf16* packed,
                   float beta, C* c) {
  run_nonempty<C>(cpu, {{.m = m, .n = n, .k = k, .a = a, .a_step = k, .packed = packed, .beta = beta, .c = c}});
}

template <class C>
void packed_grouped_matmul(const Cpu& cpu, std::int64_t groups, std::int64_t n, std::int64_t k,
                           const std::int64_t* offsets, const bf16* rows, const bf16* packed, float beta, C* y) {
  std::vector<Product<C>> products;
  for (std::int64_t e = 0; e < groups; ++e)
    products.push_back({.m = offsets[e + 1] - offsets[e],
                        .n = n,
                        .k = k,
                        .a = rows + offsets[e] * k,
                        .a_step = k,
                        .packed = packed + e * packed_elements(k, n),
                        .beta = beta,
                        .c = y + offsets[e] * n});
  run_nonempty<C>(cpu, std::move(products));
}

template <class C>
void matmul(const Cpu& cpu, Transpose transpose_a, Transpose transpose_b, std::int64_t m, std::int64_t n,
            std::int64_t k, const bf16* a, const bf16* b, float beta, C* c) {
  bf16* packed = cpu.cache->matmul.get<bf16>(packed_elements(k, n));
  pack(cpu, 1, transpose_b, k, n, b, packed);
  run_nonempty<C>(cpu, {{.transpose_a = transpose_a,
                         .m = m,
                         .n = n,
                         .k = k,
                         .a = a,
                         .a_step = transpose_a == Transpose::Yes ? m : k,
                         .packed = packed,
                         .beta = beta,
                         .c = c}});
}

void grouped_matmul_weight(const Cpu& cpu, std::int64_t experts, std::int64_t in, std::int64_t out,
                           const std::int64_t* offsets, const bf16* dy, const bf16* rows, float beta, float* dweight) {
  std::vector<std::int64_t> begin(static_cast<std::size_t>(experts) + 1);
  for (std::int64_t e = 0; e < experts; ++e) begin[e + 1] = begin[e] + packed_elements(offsets[e + 1] - offsets[e], in);
  bf16* packed = cpu.cache->matmul.get<bf16>(begin[experts]);
  const std::int64_t panels = whole_panels(in);
  for_each_task(cpu, experts * panels, [&](std::int64_t i) {
    const std::int64_t e = i / panels, panel = i % panels, k = offsets[e + 1] - offsets[e];
    pack_panel(Transpose::No, k, in, rows + offsets[e] * in, panel,
               packed + begin[e] + panel * whole_blocks(k) * panel_block);
  });
  std::vector<Product<float>> products;
  for (std::int64_t e = 0; e < experts; ++e)
    products.push_back({.transpose_a = Transpose::Yes,
                        .m = out,
                        .n = in,
                        .k = offsets[e + 1] - offsets[e],
                        .a = dy + offsets[e] * out,
                        .a_step = out,
                        .packed = packed + begin[e],
                        .beta = beta,
                        .c = dweight + e * out * in});
  run_nonempty<float>(cpu, std::move(products));
}

#define LIMBECK_INSTANTIATE(C)                                                                                       \
  template void packed_matmul(const Cpu&, std::int64_t, std::int64_t, std::int64_t, const bf16*, const bf16*, float, \
                              C*);                                                                                   \
  template void packed_grouped_matmul(const Cpu&, std::int64_t, std::int64_t, std::int64_t, const std::int64_t*,     \
                                      const bf16*, const bf16*, float, C*);                                          \
  template void matmul(const Cpu&, Transpose, Transpose, std::int64_t, std::int64_t, std::int64_t, const bf16*,      \
                       const bf16*, float, C*);
LIMBECK_INSTANTIATE(float)
LIMBECK_INSTANTIATE(bf16)
template void pack(const Cpu&, std::int64_t, Transpose, std::int64_t, std::int64_t, const float*, bf16*);
template void pack(const Cpu&, std::int64_t, Transpose, std::int64_t, std::int64_t, const bf16*, bf16*);

}  // namespace limbeck::kernels
