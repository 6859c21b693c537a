#include "core/ops/ring_attention.h"

#include <utility>

#include "core/ops/attention_calls.h"
#include "kernels/attention.h"
#include "kernels/elementwise.h"

namespace limbeck::core {
namespace {

/// What goes round for one problem, seen from one rank. In step s from 1 on come the keys of the rank s places behind.
class Ring {
 public:
  Ring(std::shared_ptr<const RingLayout> layout, nn::ContextComm& comm, const AttentionShape& shape)
      : layout_(std::move(layout)), comm_(comm), window_(shape.window), has_heads_(shape.num_kv_heads > 0) {}

  std::int64_t size() const { return layout_->size(); }
  std::int64_t rank() const { return comm_.rank(); }
  std::int64_t behind(std::int64_t step) const { return (rank() - step + size()) % size(); }
  std::int64_t ahead(std::int64_t step) const { return (rank() + step) % size(); }
  bool sees(std::int64_t queries, std::int64_t keys) const {
    return has_heads_ && layout_->sees(queries, keys, window_);
  }
  bool sees(std::int64_t step) const { return sees(rank(), behind(step)); }

  /// Two tensors that go the same way.
  struct Pair {
    Tensor first = {}, second = {};
    CommHandle handles[2] = {};
    void wait() {
      for (CommHandle& handle : handles) handle.wait();
    }
  };
  /// Those rows of the rank behind arrive that this rank's queries see.
  Pair start_keys(std::int64_t step, const Tensor& k, const Tensor& v) const {
    if (step >= size()) return {};
    const bool is_seen = sees(ahead(step), rank());
    return start(step, step, {k, v}, is_seen ? k.shape()[0] : 0, sees(step) ? layout_->num_tokens(behind(step)) : 0);
  }
  /// Back to whose the keys are go their gradients, and those of this rank's keys arrive.
  Pair start_gradients(std::int64_t step, const Tensor& dk, const Tensor& dv) const {
    const bool is_seen = sees(ahead(step), rank());
    return start(step, -step, {dk, dv}, dk.shape()[0], is_seen ? layout_->num_tokens(rank()) : 0);
  }

  AttentionLayout keys_of(std::int64_t step) const { return layout_->between(rank(), behind(step)); }

 private:
  Pair start(std::int64_t step, std::int64_t by, const std::pair<Tensor, Tensor>& rows, std::int64_t sent,
             std::int64_t received) const {
    bool moves = false;  // somewhere, which all ranks know
    for (std::int64_t r = 0; r < size(); ++r) moves |= sees(r, (r - step + size()) % size());
    if (!moves) return {};
    const auto room = [&](const Tensor& like) {
      return Tensor::empty(like.memory(), like.dtype(), {received, like.shape()[1]});
    };
    Pair pair{room(rows.first), room(rows.second)};
    pair.handles[0] = comm_.start_pass(by, rows.first.rows(0, sent), pair.first);
    pair.handles[1] = comm_.start_pass(by, rows.second.rows(0, sent), pair.second);
    return pair;
  }

  std::shared_ptr<const RingLayout> layout_;
  nn::ContextComm& comm_;
  std::int64_t window_;
  bool has_heads_;
};

/// out [T,H*Dv] and logsumexp become those of both.
void merge(const Attended& more, const AttentionShape& shape, Attended& sum) {
  dispatch_activation("ring_attention", more.out.dtype(), [&]<class T>() {
    using Sum = kernels::Acc<T>;
    on_device(sum.out, [&](const auto& device) {
      kernels::attention_merge(device, more.out.data<T>(), more.logsumexp.data<Sum>(), sum.out.mutable_data<Sum>(),
                               sum.logsumexp.mutable_data<Sum>(), sum.logsumexp.numel(), shape.value_width);
    });
  });
}

Attended ring_forward(const Ring& ring, const Tensor& q, const Tensor& k, const Tensor& v, const AttentionShape& shape,
                      const Tensor& sinks) {
  Ring::Pair next = ring.start_keys(1, k, v);
  Attended sum = attend(q, k, v, shape, ring.keys_of(0), sinks);
  const DType wide = sum_dtype(q.dtype());
  if (q.dtype() != wide) sum.out = sum.out.to(wide);
  for (std::int64_t step = 1; step < ring.size(); ++step) {
    next.wait();
    const Ring::Pair here = std::exchange(next, ring.start_keys(step + 1, k, v));
    if (ring.sees(step)) merge(attend(q, here.first, here.second, shape, ring.keys_of(step), {}), shape, sum);
  }
  if (q.dtype() != wide) sum.out = sum.out.to(q.dtype());
  return sum;
}

void add_arrived(Ring::Pair& arriving, AttentionSums& sums) {
  arriving.wait();
  const auto add = [](const Tensor& from, Tensor& to) {
    if (!from.defined() || from.numel() == 0) return;
    dispatch_float("ring_attention", to.dtype(), [&]<class T>() {
      on_device(to,
                [&](const auto& device) { kernels::add_to(device, from.data<T>(), to.mutable_data<T>(), to.numel()); });
    });
  };
  add(arriving.first, sums.dk);
  add(arriving.second, sums.dv);
  arriving = {};
}

void ring_backward(const Ring& ring, const Tensor& q, const Tensor& k, const Tensor& v, const Attended& of,
                   const Tensor& dout, const AttentionShape& shape, AttentionSums& sums) {
  Ring::Pair next = ring.start_keys(1, k, v), returning;
  attend_backward(q, k, v, of, dout, shape, ring.keys_of(0), sums);
  for (std::int64_t step = 1; step < ring.size(); ++step) {
    next.wait();
    const Ring::Pair here = std::exchange(next, ring.start_keys(step + 1, k, v));
    const auto zeros = [&](const Tensor& arrived, const Tensor& like) {
      const std::int64_t rows = arrived.defined() ? arrived.shape()[0] : 0;
      return Tensor::zeros(like.memory(), like.dtype(), {rows, like.shape()[1]});
    };
    AttentionSums theirs{sums.dq, zeros(here.first, sums.dk), zeros(here.second, sums.dv)};
    if (ring.sees(step)) attend_backward(q, here.first, here.second, of, dout, shape, ring.keys_of(step), theirs);
    add_arrived(returning, sums);
    returning = ring.start_gradients(step, theirs.dk, theirs.dv);
  }
  add_arrived(returning, sums);
}

}  // namespace

AttentionLayout RingLayout::between(std::int64_t queries, std::int64_t keys) const {
  const Part &asking = parts[static_cast<std::size_t>(queries)], &asked = parts[static_cast<std::size_t>(keys)];
  return {.query_offsets = asking.offsets,
          .key_offsets = asked.offsets,
          .query_position = asking.position,
          .key_position = asked.position,
          .query_document = asking.document,
          .key_document = asked.document};
}

Var ring_attention(Tape& tape, const Var& q, const Var& k, const Var& v, const AttentionShape& shape,
                   const std::shared_ptr<const RingLayout>& layout, nn::ContextComm& comm,
                   const std::optional<Var>& sinks) {
  check(layout->size() == comm.size(), "ring_attention: sequences cut over {} ranks, expected {}", layout->size(),
        comm.size());
  const Ring ring(layout, comm, shape);
  const AttentionLayout own = ring.keys_of(0);
  check_attention(q, k, v, shape, own, sinks);
  check(!shape.values_in_keys, "ring_attention: keys that hold the values, expected values of their own");
  const Attended found = ring_forward(ring, q.value, k.value, v.value, shape, sinks ? sinks->value : Tensor());
  return recorded(tape, "ring_attention", q, k, v, sinks, found, shape, own,
                  [=](const Tensor& qs, const Tensor& ks, const Tensor& vs, const Attended& of, const Tensor& dout,
                      AttentionSums& sums) { ring_backward(ring, qs, ks, vs, of, dout, shape, sums); });
}

}  // namespace limbeck::core
