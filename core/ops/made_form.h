// Forms of a weight that products read in its place, each made once for a version of its values and kept with its
// storage until that is written.
//
//     Storage::Made& made = made_of(weight, Form::Rounded);
//     if (made.storage == nullptr) made.storage = weight.to(DType::BF16).storage();
#pragma once

#include "core/tensor.h"

namespace limbeck::core {

enum class Form : int {
  Packed,            // core/ops/packed_weight.h
  PackedTransposed,  // the same of its transposed
  Rounded,           // to bfloat16, in its own order
  Fp8,               // core/ops/fp8_product.h
};

/// What is known of a form of the weight, whatever values it is of; null: nothing.
Storage::Made* find_made(const Tensor& weight, Form form);

/// What is known of a form of the weight's present values: without storage and with wanted = 0 where they are new.
Storage::Made& made_of(const Tensor& weight, Form form);

/// Forgets the forms that are not written with the weight (rounded_to_write, packed_weight.h): they are made anew when
/// they are next asked for.
void forget_made(const Tensor& weight);

}  // namespace limbeck::core
