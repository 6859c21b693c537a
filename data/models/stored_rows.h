// Which rows of a file's matrix, or elements of its bias, a tensor is made of, where a file has several tensors in one,
// or turning channels in another order.
//
//     const StoredRows rows{.group = 2, .stride = 5, .first = 3, .total = 20};     // 3, 4, 8, 9, 13, 14, ...
//     rows.of(2);                                                                  // 8
#pragma once

#include <cstdint>

namespace limbeck::data {

struct StoredRows {
  std::int64_t group = 0;    // ours go by so many; 0: they are all the file's, in its order
  std::int64_t stride = 0;   // a group lies in so many of the file's,
  std::int64_t first = 0;    // from this one on
  std::int64_t total = 0;    // rows of the file's matrix
  std::int64_t turning = 0;  // of a group's last rows, pairs (i, i + turning / 2) here are side by side there
  bool turns_first = false;  // of its first rows

  /// The rows [first, first + count) of a matrix of `total`.
  static StoredRows run(std::int64_t first, std::int64_t count, std::int64_t total) {
    return {.group = count, .stride = total, .first = first, .total = total};
  }
  /// Heads of `width` rows, of which the first `turns` lie in pairs.
  static StoredRows in_pairs(std::int64_t width, std::int64_t turns, std::int64_t total) {
    return {.group = width, .stride = width, .total = total, .turning = turns, .turns_first = true};
  }
  bool is_all() const { return group == 0; }
  /// They lie one behind the other.
  bool is_run() const { return is_all() || (turning == 0 && stride == total); }
  std::int64_t of(std::int64_t row) const {
    if (is_all()) return row;
    std::int64_t within = row % group;
    if (const std::int64_t plain = turns_first ? 0 : group - turning, i = within - plain; i >= 0 && i < turning) {
      const std::int64_t half = turning / 2;
      within = plain + 2 * (i % half) + i / half;
    }
    return row / group * stride + first + within;
  }
};

}  // namespace limbeck::data
