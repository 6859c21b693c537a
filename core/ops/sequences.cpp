#include "core/ops/sequences.h"

#include <vector>

#include "core/device/index_check.h"

namespace limbeck::core {

void check_sequences(std::string_view op, const Sequences& s, std::int64_t tokens) {
  check(
      s.offsets.defined() && s.offsets.dtype() == DType::I64 && s.offsets.shape().rank() == 1 && s.offsets.numel() > 0,
      "{}: the sequences' offsets are not int64 [N+1]", op);
  check(s.document.defined() && s.document.dtype() == DType::I32 && s.document.shape() == Shape{tokens},
        "{}: the tokens' documents are not int32 [{}]", op, tokens);
}

void check_state(std::string_view op, const SequenceState& state, const Sequences& s, DType dtype,
                 std::initializer_list<std::int64_t> row) {
  const std::int64_t number = s.offsets.numel() - 1;
  check(state.slots.defined() && state.slots.dtype() == DType::I64 && state.slots.shape() == Shape{number},
        "{}: the states' slots are not int64 [{}]", op, number);
  const std::int64_t rows = state.rows.defined() && state.rows.shape().rank() > 0 ? state.rows.shape()[0] : 0;
  std::vector<std::int64_t> extents = {rows};
  extents.insert(extents.end(), row.begin(), row.end());
  const Shape expected{std::span<const std::int64_t>(extents)};
  check(state.rows.defined(), "{}: no states, expected {} {}", op, dtype, expected);
  check(state.rows.dtype() == dtype && state.rows.shape() == expected, "{}: states are {} {}, expected {} {}", op,
        state.rows.dtype(), state.rows.shape(), dtype, expected);
  check_indices(state.slots, 0, rows, [op = std::string(op), rows](std::int64_t n, std::int64_t slot) {
    return fmt::format("{}: slot {} of sequence {} is not one of the {} states", op, slot, n, rows);
  });
}

kernels::Sequences kernel_sequences(const Sequences& s, const SequenceState* state) {
  return {.tokens = s.document.numel(),
          .number = s.offsets.numel() - 1,
          .offsets = s.offsets.data<std::int64_t>(),
          .document = s.document.data<std::int32_t>(),
          .slots = state != nullptr ? state->slots.data<std::int64_t>() : nullptr};
}

}  // namespace limbeck::core
