#include "core/ops/heads.h"

#include "kernels/heads.h"

namespace limbeck::core {
namespace {

using kernels::HeadParts;

/// Channels from `first` on of the heads of x [T,H*W].
template <class T>
HeadParts<const T> parts_of(const Tensor& x, std::int64_t first, std::int64_t num_heads) {
  return {x.data<T>() + first, x.shape()[1], x.shape()[1] / num_heads};
}
template <class T>
HeadParts<T> mutable_parts_of(Tensor& x, std::int64_t first, std::int64_t num_heads) {
  return {x.mutable_data<T>() + first, x.shape()[1], x.shape()[1] / num_heads};
}

}  // namespace

Var join_heads(Tape& tape, const Var& own, const Var& common, std::int64_t num_heads) {
  check(num_heads >= 0 && own.shape().rank() == 2 &&
            (num_heads == 0 ? own.shape()[1] == 0 : own.shape()[1] % num_heads == 0),
        "join_heads: own parts have shape {}, expected [T,{}*A]", own.shape(), num_heads);
  check(common.shape().rank() == 2 && common.shape()[0] == own.shape()[0] && common.value.dtype() == own.value.dtype(),
        "join_heads: the common part is {} {}, expected {} [{},B]", common.value.dtype(), common.shape(),
        own.value.dtype(), own.shape()[0]);
  const std::int64_t tokens = own.shape()[0], b = common.shape()[1];
  const std::int64_t a = num_heads > 0 ? own.shape()[1] / num_heads : 0;
  Tensor joined = Tensor::empty(own.value.memory(), own.value.dtype(), {tokens, num_heads * (a + b)});
  dispatch_activation("join_heads", joined.dtype(), [&]<class T>() {
    if (num_heads == 0) return;
    on_device(joined, [&](const auto& device) {
      kernels::copy_heads(device, parts_of<T>(own.value, 0, num_heads), mutable_parts_of<T>(joined, 0, num_heads),
                          tokens, num_heads, a);
      kernels::copy_heads(device, HeadParts<const T>{common.value.data<T>(), b, 0},
                          mutable_parts_of<T>(joined, a, num_heads), tokens, num_heads, b);
    });
  });
  Var out = tape.output(joined, {&own, &common});
  if (!out.slot) return out;
  tape.push({"join_heads",
             {own.slot, common.slot},
             [=, slot = out.slot, like = outline(joined), like_own = outline(own.value),
              like_common = outline(common.value), to_own = own.slot, to_common = common.slot] {
               const Tensor d = gradient(slot, like);
               Tensor down = empty_like(like_own), dcommon = empty_like(like_common);
               if (num_heads == 0) dcommon.fill_zero();
               dispatch_activation("join_heads", d.dtype(), [&]<class T>() {
                 if (num_heads == 0) return;
                 on_device(d, [&](const auto& device) {
                   kernels::copy_heads(device, parts_of<T>(d, 0, num_heads), mutable_parts_of<T>(down, 0, num_heads),
                                       tokens, num_heads, a);
                   kernels::sum_heads(device, parts_of<T>(d, a, num_heads), dcommon.mutable_data<T>(), tokens,
                                      num_heads, b);
                 });
               });
               accumulate(to_own, down);
               accumulate(to_common, dcommon);
             }});
  return out;
}

Tensor heads_first(const Tensor& x, std::int64_t first, std::int64_t width, std::int64_t num_heads) {
  check(num_heads > 0 && x.shape().rank() == 2 && x.shape()[1] % num_heads == 0 && first >= 0 &&
            first + width <= x.shape()[1] / num_heads,
        "heads_first: channels {} to {} of {} heads of {}", first, first + width, num_heads, x.shape());
  const std::int64_t tokens = x.shape()[0];
  Tensor out = Tensor::empty(x.memory(), x.dtype(), {num_heads * tokens, width});
  dispatch_activation("heads_first", x.dtype(), [&]<class T>() {
    on_device(x, [&](const auto& device) {
      kernels::copy_heads(device, parts_of<T>(x, first, num_heads),
                          HeadParts<T>{out.mutable_data<T>(), width, tokens * width}, tokens, num_heads, width);
    });
  });
  return out;
}

void put_heads(const Tensor& x, std::int64_t first, std::int64_t num_heads, Tensor to) {
  const std::int64_t tokens = to.shape()[0], width = x.shape()[1];
  check(num_heads > 0 && x.shape()[0] == num_heads * tokens && to.shape()[1] % num_heads == 0 && first >= 0 &&
            first + width <= to.shape()[1] / num_heads && x.dtype() == to.dtype(),
        "put_heads: {} {} into channels from {} on of {} heads of {} {}", x.dtype(), x.shape(), first, num_heads,
        to.dtype(), to.shape());
  dispatch_activation("put_heads", x.dtype(), [&]<class T>() {
    on_device(x, [&](const auto& device) {
      kernels::copy_heads(device, HeadParts<const T>{x.data<T>(), width, tokens * width},
                          mutable_parts_of<T>(to, first, num_heads), tokens, num_heads, width);
    });
  });
}

}  // namespace limbeck::core
