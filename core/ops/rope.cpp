#include "core/ops/rope.h"

#include "kernels/index_check.h"
#include "kernels/rope.h"

namespace limbeck::core {
namespace {

Tensor rotated(const Tensor& x, const Tensor& position, const RopeTable& table, int direction) {
  const std::int64_t tokens = x.shape()[0], head_width = 2 * table.cos.shape()[1];
  Tensor y = empty_like(x);
  dispatch_activation("rope", x.dtype(), [&]<class T>() {
    using Wide = kernels::Acc<T>;
    on_device(x, [&](const auto& device) {
      kernels::rope(device, x.data<T>(), position.data<std::int32_t>(), table.cos.data<Wide>(), table.sin.data<Wide>(),
                    direction, y.mutable_data<T>(), tokens, x.shape()[1] / head_width, head_width);
    });
  });
  return y;
}

}  // namespace

RopeTable make_rope_table(const MemoryPtr& memory, DType dtype, std::int64_t num_positions, std::int64_t head_width,
                          double base) {
  check(head_width > 0 && head_width % 2 == 0, "rope: head width is {}, expected an even number", head_width);
  check(base > 0, "rope: base is {}, expected a positive number", base);
  const Shape shape{num_positions, head_width / 2};
  RopeTable table{Tensor::empty(memory, dtype, shape), Tensor::empty(memory, dtype, shape)};
  dispatch_float("rope", dtype, [&]<class T>() {
    on_device(table.cos, [&](const auto& device) {
      kernels::rope_table(device, table.cos.mutable_data<T>(), table.sin.mutable_data<T>(), num_positions, head_width,
                          base);
    });
  });
  return table;
}

Var rope(Tape& tape, const Var& x, const Tensor& position, const RopeTable& table) {
  const std::int64_t num_positions = table.cos.shape()[0], head_width = 2 * table.cos.shape()[1];
  check(x.shape().rank() == 2 && x.shape()[1] % head_width == 0, "rope: x has shape {}, expected [T,H*{}]", x.shape(),
        head_width);
  check(position.shape() == Shape{x.shape()[0]}, "rope: position has shape {}, expected [{}] (x is {})",
        position.shape(), x.shape()[0], x.shape());
  check(sum_dtype(x.value.dtype()) == table.cos.dtype(), "rope: x is {}, expected {} as the table{}", x.value.dtype(),
        table.cos.dtype(), table.cos.dtype() == DType::F32 ? ", or bfloat16" : "");
  on_device(position, [&](const auto& device) {
    const auto* p = position.data<std::int32_t>();
    const std::int64_t bad = kernels::first_outside(device, p, position.numel(), num_positions);
    check(bad < 0, "rope: position {} of token {} is not in the table of {} positions", bad < 0 ? 0 : p[bad], bad,
          num_positions);
  });
  Var out = tape.output(rotated(x.value, position, table, 1), {&x});
  if (out.slot)
    tape.push({"rope",
               {x.slot},
               [=, slot = out.slot, like = outline(out.value), to = x.slot, at = Saved(position),
                cos = Saved(table.cos), sin = Saved(table.sin)] {
                 accumulate(to, rotated(gradient(slot, like), at.get(), {cos.get(), sin.get()}, -1));
               }});
  return out;
}

}  // namespace limbeck::core
