#include "core/ops/attention.h"

#include "core/device/index_check.h"
#include "core/ops/attention_calls.h"
#include "kernels/attention.h"

namespace limbeck::core {
namespace {

kernels::AttentionProblem make_problem(const AttentionShape& s, const AttentionLayout& l) {
  return {.num_heads = s.num_heads,
          .num_kv_heads = s.num_kv_heads,
          .width = s.width,
          .value_width = s.value_width,
          .scale = s.scale,
          .values_in_keys = s.values_in_keys,
          .window = s.window,
          .num_segments = l.query_offsets.numel() - 1,
          .num_queries = l.query_position.numel(),
          .num_keys = l.key_position.numel(),
          .query_offsets = l.query_offsets.data<std::int64_t>(),
          .key_offsets = l.key_offsets.data<std::int64_t>(),
          .query_position = l.query_position.data<std::int32_t>(),
          .key_position = l.key_position.data<std::int32_t>(),
          .query_document = l.query_document.data<std::int32_t>(),
          .key_document = l.key_document.data<std::int32_t>(),
          .key_pages = l.key_pages.defined() ? l.key_pages.data<std::int64_t>() : nullptr,
          .num_runs = l.run_offsets.defined() ? l.run_offsets.numel() - 1 : 0,
          .longest_run = l.longest_run,
          .run_offsets = l.run_offsets.defined() ? l.run_offsets.data<std::int64_t>() : nullptr};
}

/// Where the kernel adds a gradient up: in the slot, cleared if it holds nothing yet, or apart from it, where there is
/// none or where sums are of another dtype.
Tensor open_sum(const SlotPtr& slot, const Tensor& like) {
  const DType sums = sum_dtype(like.dtype());
  if (!slot || sums != like.dtype()) return Tensor::zeros(like.memory(), sums, like.shape());
  GradientTarget target = open_gradient(slot, like);
  if (target.beta == 0) target.tensor.fill_zero();
  return target.tensor;
}

/// The sum is complete.
void close_sum(const SlotPtr& slot, const Tensor& sum, const Tensor& like) {
  if (slot && sum.dtype() != like.dtype()) accumulate(slot, sum.to(like.dtype()));
}

/// Gives a step of attention the weight part of its sinks, where they take a gradient.
void add_sinks_part(Tape::Step& step, const std::optional<Var>& sinks, const Attended& of, const SlotPtr& out_slot,
                    const AttentionShape& shape, const AttentionLayout& layout) {
  if (!sinks || !sinks->slot) return;
  step.weight_slots = {sinks->slot};
  // Their own copy: a layer's weights may be freed before its weight parts run.
  step.weight_part = [=, slot = sinks->slot, saved = Saved(sinks->value.clone()), os = Saved(of.out),
                      lse = Saved(of.logsumexp)] {
    const Tensor dout = gradient(out_slot, os.get());
    GradientTarget dsinks = open_gradient(slot, saved.get());
    dispatch_activation("attention", dout.dtype(), [&]<class T>() {
      using Sum = kernels::Acc<T>;
      on_device(dout, [&](const auto& device) {
        kernels::attention_sink_gradient(device, make_problem(shape, layout), saved.get().data<Sum>(),
                                         os.get().data<T>(), lse.get().data<Sum>(), dout.data<T>(), dsinks.beta != 0,
                                         dsinks.tensor.mutable_data<Sum>());
      });
    });
  };
}

}  // namespace

void check_attention(const Var& q, const Var& k, const Var& v, const AttentionShape& s, const AttentionLayout& l,
                     const std::optional<Var>& sinks) {
  check(s.num_kv_heads > 0 ? s.num_heads > 0 && s.num_heads % s.num_kv_heads == 0
                           : s.num_kv_heads == 0 && s.num_heads == 0,
        "attention: {} key/value heads do not divide {} heads", s.num_kv_heads, s.num_heads);
  check(s.window >= 0, "attention: a window of {} positions, expected 0 for none or more", s.window);
  const auto expect = [](std::string_view name, const Tensor& t, DType dtype, const Shape& shape) {
    check(t.defined() && t.dtype() == dtype && t.shape() == shape, "attention: {} is {} {}, expected {} {}", name,
          t.dtype(), t.shape(), dtype, shape);
  };
  const std::int64_t queries = q.shape().rank() == 2 ? q.shape()[0] : 0;
  const std::int64_t rows = k.shape().rank() == 2 ? k.shape()[0] : 0;
  const std::int64_t keys = l.key_pages.defined() ? l.key_pages.numel() * kernels::attention_page : rows;
  const DType dtype = q.value.dtype();
  expect("q", q.value, dtype, {queries, s.num_heads * s.width});
  expect("k", k.value, dtype, {rows, s.num_kv_heads * s.width});
  expect("v", v.value, dtype, {rows, s.num_kv_heads * (s.values_in_keys ? s.width : s.value_width)});
  if (s.values_in_keys)
    check(v.value.raw() == k.value.raw() && s.value_width <= s.width,
          "attention: values of {} channels apart from the keys of {}, expected some of theirs", s.value_width,
          s.width);
  check(l.query_offsets.defined() && l.query_offsets.numel() > 0, "attention: query_offsets is empty, expected [N+1]");
  expect("query_offsets", l.query_offsets, DType::I64, {l.query_offsets.numel()});
  expect("key_offsets", l.key_offsets, DType::I64, l.query_offsets.shape());
  expect("query_position", l.query_position, DType::I32, {queries});
  expect("query_document", l.query_document, DType::I32, {queries});
  expect("key_position", l.key_position, DType::I32, {keys});
  expect("key_document", l.key_document, DType::I32, {keys});
  if (sinks) expect("sinks", sinks->value, sum_dtype(dtype), {s.num_heads});
  if (!l.key_pages.defined()) return;
  expect("key_pages", l.key_pages, DType::I64, {l.key_pages.numel()});
  check_indices(l.key_pages, 0, rows / kernels::attention_page, [=](std::int64_t, std::int64_t page) {
    return fmt::format("attention: page {} of keys, expected one of the {} rows in pages of {}", page, rows,
                       kernels::attention_page);
  });
}

Attended attend(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionShape& shape,
                const AttentionLayout& layout, const Tensor& sinks) {
  const std::int64_t queries = q.shape()[0];
  Tensor out = Tensor::empty(q.memory(), q.dtype(), {queries, shape.num_heads * shape.value_width});
  Tensor logsumexp = Tensor::empty(q.memory(), sum_dtype(q.dtype()), {queries, shape.num_heads});
  dispatch_activation("attention", q.dtype(), [&]<class T>() {
    using Sum = kernels::Acc<T>;
    on_device(q, [&](const auto& device) {
      kernels::attention_forward(device, make_problem(shape, layout), q.data<T>(), k.data<T>(), v.data<T>(),
                                 out.mutable_data<T>(), logsumexp.mutable_data<Sum>(),
                                 sinks.defined() ? sinks.data<Sum>() : nullptr);
    });
  });
  return {out, logsumexp};
}

void attend_backward(const Tensor& q, const Tensor& k, const Tensor& v, const Attended& of, const Tensor& dout,
                     const AttentionShape& shape, const AttentionLayout& layout, AttentionSums& sums) {
  dispatch_activation("attention", q.dtype(), [&]<class T>() {
    using Sum = kernels::Acc<T>;
    on_device(q, [&](const auto& device) {
      kernels::attention_backward(device, make_problem(shape, layout), q.data<T>(), k.data<T>(), v.data<T>(),
                                  of.out.data<T>(), of.logsumexp.data<Sum>(), dout.data<T>(),
                                  sums.dq.mutable_data<Sum>(), sums.dk.mutable_data<Sum>(),
                                  sums.dv.mutable_data<Sum>());
    });
  });
}

std::int64_t widest_attention(const MemoryPtr& memory) {
  return std::visit([](const auto& device) { return kernels::attention_widest(device); }, memory->device());
}

Var recorded(Tape& tape, const char* op, const Var& q, const Var& k, const Var& v, const std::optional<Var>& sinks,
             const Attended& found, const AttentionShape& shape, const AttentionLayout& layout,
             AttentionBackward backward) {
  const Var no_sinks;
  Var y = tape.output(found.out, {&q, &k, &v, sinks ? &*sinks : &no_sinks});
  if (!y.slot) return y;
  check(!layout.key_pages.defined(), "{}: keys in pages take no gradient", op);
  check(!shape.values_in_keys, "{}: keys that hold the values take no gradient", op);
  const Saved qs(q.value), ks(k.value), vs(v.value), os(found.out), lse(found.logsumexp);
  Tape::Step step{
      op,
      {q.slot, k.slot, v.slot},
      [=, backward = std::move(backward), q_slot = q.slot, k_slot = k.slot, v_slot = v.slot, out_slot = y.slot] {
        AttentionSums sums{open_sum(q_slot, qs.get()), open_sum(k_slot, ks.get()), open_sum(v_slot, vs.get())};
        backward(qs.get(), ks.get(), vs.get(), {os.get(), lse.get()}, gradient(out_slot, os.get()), sums);
        close_sum(q_slot, sums.dq, qs.get());
        close_sum(k_slot, sums.dk, ks.get());
        close_sum(v_slot, sums.dv, vs.get());
      }};
  add_sinks_part(step, sinks, found, y.slot, shape, layout);
  tape.push(std::move(step));
  return y;
}

Var attention(Tape& tape, const Var& q, const Var& k, const Var& v, const AttentionShape& shape,
              const AttentionLayout& layout, const std::optional<Var>& sinks) {
  check_attention(q, k, v, shape, layout, sinks);
  AttentionLayout own = layout;
  if (sinks) own.run_offsets = {};  // libraries know none
  const Attended found = attend(q.value, k.value, v.value, shape, own, sinks ? sinks->value : Tensor());
  return recorded(tape, "attention", q, k, v, sinks, found, shape, own,
                  [=](const Tensor& qs, const Tensor& ks, const Tensor& vs, const Attended& of, const Tensor& dout,
                      AttentionSums& sums) { attend_backward(qs, ks, vs, of, dout, shape, own, sums); });
}

}  // namespace limbeck::core
