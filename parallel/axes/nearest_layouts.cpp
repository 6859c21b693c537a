#include "parallel/axes/nearest_layouts.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdlib>
#include <initializer_list>
#include <optional>
#include <utility>
#include <vector>

namespace limbeck::parallel {

namespace {

/// An axis that is not named has one rank.
std::int64_t product_of(const Layout& layout, std::initializer_list<int Layout::*> axes) {
  std::int64_t product = 1;
  for (int Layout::*axis : axes) product *= std::max(layout.*axis, 1);
  return product;
}

std::int64_t product_of_axes(const Layout& l) {
  return product_of(l, {&Layout::dp, &Layout::cp, &Layout::tp, &Layout::pp, &Layout::ep, &Layout::etp});
}

struct Neighbour {
  int distance;  // how much the sizes differ
  Layout layout;
};

/// The nearest layout that `may_be` and has other sizes, of `sizes`, of the axes `a` and `b`, which may be the same;
/// the first of several.
std::optional<Neighbour> neighbour(const Layout& layout, int Layout::*a, int Layout::*b, const std::vector<int>& sizes,
                                   const std::function<bool(const Layout&)>& may_be) {
  std::optional<Neighbour> best;
  Layout other = layout;
  for (const int of_a : sizes)
    for (const int of_b : a == b ? std::vector{of_a} : sizes) {
      other.*a = of_a;
      other.*b = of_b;
      const int distance = std::abs(of_a - layout.*a) + (a == b ? 0 : std::abs(of_b - layout.*b));
      if ((best && best->distance <= distance) || !may_be(other)) continue;
      best = Neighbour{distance, other};
    }
  return best;
}

/// Without axes of one rank.
std::string text_of(const Layout& layout, int num_ranks) {
  std::string text;
  for (const auto& [name, axis] : layout_axes)
    if (layout.*axis > 1) text += fmt::format("{}{}", name, layout.*axis);
  return text.empty() ? fmt::format("dp{}", num_ranks) : text;
}

}  // namespace

std::int64_t attention_ranks(const Layout& layout) {
  return product_of(layout, {&Layout::tp, &Layout::cp, &Layout::pp});
}
std::int64_t expert_ranks(const Layout& layout) { return product_of(layout, {&Layout::ep, &Layout::etp, &Layout::pp}); }

bool fits(const Layout& layout, int num_ranks) {
  if (layout.dp > 0) return product_of_axes(layout) == num_ranks;
  return num_ranks % attention_ranks(layout) == 0 && num_ranks % expert_ranks(layout) == 0;
}

std::string nearest_layouts(const Layout& layout, int num_ranks, const std::function<bool(const Layout&)>& takes) {
  const auto may_be = [&](const Layout& other) { return fits(other, num_ranks) && (!takes || takes(other)); };
  std::vector<int> sizes;  // each axis of one that fits divides the world
  for (int size = 1; size <= num_ranks; ++size)
    if (num_ranks % size == 0) sizes.push_back(size);
  std::vector<Neighbour> found;
  const auto offer = [&](int Layout::*a, int Layout::*b) {
    if (layout.*a == 0 || layout.*b == 0) return;
    if (auto other = neighbour(layout, a, b, sizes, may_be)) found.push_back(std::move(*other));
  };
  for (const LayoutAxis& axis : layout_axes) offer(axis.size, axis.size);
  const bool of_two = found.empty();
  if (of_two)
    for (const LayoutAxis& a : layout_axes)
      for (const LayoutAxis& b : layout_axes)
        if (&a < &b) offer(a.size, b.size);
  std::ranges::stable_sort(found, {}, &Neighbour::distance);
  constexpr std::size_t most_of_two = 3;
  std::vector<std::string> texts;
  const auto add = [&](const Layout& other) {
    const std::string text = text_of(other, num_ranks);
    if (std::ranges::find(texts, text) == texts.end()) texts.push_back(text);
  };
  for (const Neighbour& other : found)
    if (!of_two || texts.size() < most_of_two) add(other.layout);
  if (of_two) add({});
  return fmt::format("{}", fmt::join(texts, ", "));
}

}  // namespace limbeck::parallel
