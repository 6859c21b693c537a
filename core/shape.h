// The extents of a tensor, outermost first: `Shape{T, C}`. Prints as [4,768].
#pragma once

#include <fmt/format.h>

#include <array>
#include <cstdint>
#include <initializer_list>
#include <span>

#include "core/error.h"

namespace limbeck::core {

class Shape {
 public:
  static constexpr int max_rank = 5;

  Shape() = default;  // a scalar
  Shape(std::initializer_list<std::int64_t> extents) : Shape(std::span(extents.begin(), extents.size())) {}
  explicit Shape(std::span<const std::int64_t> extents) : rank_(static_cast<int>(extents.size())) {
    check(extents.size() <= max_rank, "shape: {} dimensions, expected at most {}", extents.size(), max_rank);
    for (int i = 0; i < rank_; ++i) {
      check(extents[i] >= 0, "shape: extent {} is negative", extents[i]);
      extents_[i] = extents[i];
    }
  }

  int rank() const { return rank_; }
  std::int64_t operator[](int i) const { return extents_[i]; }
  std::int64_t& operator[](int i) { return extents_[i]; }
  std::span<const std::int64_t> extents() const { return {extents_.data(), static_cast<std::size_t>(rank_)}; }

  /// Number of elements; throws where the product does not fit.
  std::int64_t numel() const { return product(0); }
  /// Elements behind one index of the first dimension (1 for a vector); throws as numel().
  std::int64_t row_size() const { return product(1); }

  friend bool operator==(const Shape& a, const Shape& b) {
    return a.rank_ == b.rank_ && std::equal(a.extents().begin(), a.extents().end(), b.extents().begin());
  }

 private:
  std::int64_t product(int first) const;

  std::array<std::int64_t, max_rank> extents_{};
  int rank_ = 0;
};

}  // namespace limbeck::core

template <>
struct fmt::formatter<limbeck::core::Shape> {
  constexpr auto parse(fmt::format_parse_context& context) { return context.begin(); }
  fmt::format_context::iterator format(const limbeck::core::Shape& shape, fmt::format_context& context) const;
};
