// What its exchanges with others cost a rank, by axis of the mesh: how long it waited, its thread that computes or the
// queue of its GPU, and the bytes that it handed out.
//
//     CommTally& tally = group.engine().tally();     // of all groups of a rank
//     tally.take();                                  // forgets what was before
//     ... a step ...
//     const Traffic traffic = tally.take();
//     traffic.at(CommAxis::Tp, Traffic::WaitedNs);
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string_view>
#include <utility>

namespace limbeck::parallel {

/// World: groups of no axis alone, such as the whole world.
enum class CommAxis : std::uint8_t { Dp, Cp, Tp, Pp, Ep, Etp, Edp, World };
inline constexpr std::array<std::string_view, 8> comm_axis_names = {"dp", "cp",  "tp",  "pp",
                                                                    "ep", "etp", "edp", "world"};

/// Of a group by the first word of its name, which is that of an axis ("tp", "dp gradients"), "data" (dp x cp: Dp) or
/// "experts" (ep x etp: Ep); of any other World.
CommAxis axis_of(std::string_view group);

class Traffic {
 public:
  /// Nanoseconds that the rank waited for operations; bytes for ranks of its own node, and of others.
  enum Figure : std::uint8_t { WaitedNs, BytesInside, BytesAcross };
  static constexpr std::size_t num_figures = 3;

  std::int64_t at(CommAxis axis, Figure figure) const { return numbers_[place(axis, figure)]; }
  /// All of them, to be reduced over ranks.
  std::span<std::int64_t> numbers() { return numbers_; }
  /// Adds another step's, number by number.
  Traffic& operator+=(const Traffic& other);
  /// Whether there was any.
  bool has(CommAxis axis) const;

 private:
  friend class CommTally;
  static constexpr std::size_t place(CommAxis axis, Figure figure) {
    return num_figures * static_cast<std::size_t>(axis) + figure;
  }
  std::array<std::int64_t, num_figures * comm_axis_names.size()> numbers_{};
};

/// Counts from any thread.
class CommTally {
 public:
  void waited(CommAxis axis, std::chrono::nanoseconds time) { add(axis, Traffic::WaitedNs, time.count()); }
  void sent(CommAxis axis, bool is_near, std::int64_t bytes) {
    add(axis, is_near ? Traffic::BytesInside : Traffic::BytesAcross, bytes);
  }
  /// What was counted since the last call. From one thread.
  Traffic take();
  /// Called by take() first, for what is known only then, as of a GPU's kernels; by its thread. Null: nothing.
  void set_before_take(std::function<void(CommTally&)> count) { before_take_ = std::move(count); }

 private:
  void add(CommAxis axis, Traffic::Figure figure, std::int64_t amount) {
    numbers_[Traffic::place(axis, figure)].fetch_add(amount, std::memory_order_relaxed);
  }
  std::array<std::atomic<std::int64_t>, std::tuple_size_v<decltype(Traffic::numbers_)>> numbers_{};
  std::function<void(CommTally&)> before_take_;
};

}  // namespace limbeck::parallel
