// Sequences of tokens in a row, for operations that go along them: of the sum that a state is, of a convolution.
//
//     const Sequences sequences{batch.sequence_offsets, batch.document};
//     Var y = causal_conv(tape, x, weight, bias, sequences);                       // each document by itself
//     Var z = causal_conv(tape, x, weight, bias, sequences, {{inputs, slots}});    // goes on from what `inputs` keeps
#pragma once

#include <string_view>

#include "core/tensor.h"
#include "kernels/sequences.h"

namespace limbeck::core {

/// Sequence n is tokens [offsets[n], offsets[n+1]), its documents one behind the other: nothing goes from a token into
/// one of another sequence, or of another document.
struct Sequences {
  Tensor offsets;   // [N+1] int64, from 0 to T
  Tensor document;  // [T] int32, alike in neighbours of a sequence that are of one document
};

/// What texts have left behind, for generation: sequence n goes on where row slots[n] is, so that its first document is
/// the one of that row, and the row is written as the sequence leaves it. Rows of zeros are those of texts that have
/// no tokens yet. A sequence without tokens leaves its row as it is.
struct SequenceState {
  Tensor rows;   // [S,...]
  Tensor slots;  // [N] int64, each of another row
};

/// Throws, naming `op`, unless these are sequences of so many tokens.
void check_sequences(std::string_view op, const Sequences& sequences, std::int64_t tokens);
/// Throws unless the state is for these sequences, and has rows of `dtype` and such a shape [S,...] for any S.
void check_state(std::string_view op, const SequenceState& state, const Sequences& sequences, DType dtype,
                 std::initializer_list<std::int64_t> row);
/// As kernels take them; `state` may be null.
kernels::Sequences kernel_sequences(const Sequences& sequences, const SequenceState* state);

}  // namespace limbeck::core
