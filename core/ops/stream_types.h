// The element types of the residual stream and of the activations beside it.
//
//     dispatch_stream("add", x.dtype(), delta.dtype(), [&]<class X, class Y>() { ... });
#pragma once

#include <string_view>

#include "core/dtype.h"

namespace limbeck::core {

/// Whether activations may be of a dtype beside a stream of another: they are alike, or bfloat16 beside float32.
constexpr bool is_beside(DType activation, DType stream) {
  return activation == stream || (stream == DType::F32 && activation == DType::BF16);
}

/// Calls f.template operator()<X,Y>() with the element types of stream and activation, for which is_beside holds;
/// throws, naming `op`, where they are neither float32, float64 nor bfloat16.
template <class F>
void dispatch_stream(std::string_view op, DType stream, DType activation, F&& f) {
  dispatch_activation(op, stream, [&]<class X>() {
    if (activation == stream)
      f.template operator()<X, X>();
    else if constexpr (std::is_same_v<X, float>)
      f.template operator()<float, bf16>();
  });
}

}  // namespace limbeck::core
