#include "core/ops/aux_losses.h"

#include "core/device/index_check.h"
#include "kernels/aux_losses.h"
#include "kernels/elementwise.h"
#include "kernels/sums.h"

namespace limbeck::core {
namespace {

kernels::BalanceShape balance_shape(const Tensor& p, const Tensor& selection) {
  check(p.shape().rank() == 2, "balance_loss: probabilities have shape {}, expected [T,E]", p.shape());
  const std::int64_t tokens = p.shape()[0], experts = p.shape()[1];
  check(selection.shape().rank() == 2 && selection.shape()[0] == tokens,
        "balance_loss: selection has shape {}, expected [{},K] (probabilities are {})", selection.shape(), tokens,
        p.shape());
  check_indices(selection, 0, experts, [=](std::int64_t at, std::int64_t expert) {
    return fmt::format("balance_loss: assignment {} is to expert {}, expected one in [0,{})", at, expert, experts);
  });
  return {tokens, experts, selection.shape()[1]};
}

/// to[0] += the sum of `squares` [T], where there is somewhere to add them. `write` makes them.
template <class F>
void add_squares(const Tape& tape, const Tensor& like /*[T,E]*/, Tensor to, const F& write) {
  if (!to.defined() || tape.is_replay()) return;
  Tensor squares = Tensor::empty(like.memory(), DType::F64, {like.shape()[0]}),
         sum = Tensor::empty(like.memory(), DType::F64, {1});
  on_device(like, [&](const auto& device) {
    write(device, squares.mutable_data<double>());
    kernels::sum(device, squares.data<double>(), squares.numel(), sum.mutable_data<double>());
    kernels::add_to(device, sum.data<double>(), to.mutable_data<double>(), 1);
  });
}

}  // namespace

Tensor sequence_counts(const Tensor& selection, const Tensor& sequence, std::int64_t num_sequences,
                       std::int64_t num_experts, DType dtype) {
  check(selection.shape().rank() == 2 && sequence.shape() == Shape{selection.shape()[0]},
        "sequence_counts: selection has shape {} and sequence {}, expected [T,K] and [T]", selection.shape(),
        sequence.shape());
  check_indices(selection, 0, num_experts, [=](std::int64_t at, std::int64_t expert) {
    return fmt::format("sequence_counts: assignment {} is to expert {}, expected one in [0,{})", at, expert,
                       num_experts);
  });
  Tensor counts = Tensor::empty(selection.memory(), dtype, {num_sequences, num_experts});
  dispatch_float("sequence_counts", dtype, [&]<class T>() {
    on_device(selection, [&](const auto& device) {
      kernels::count_assignments(device, selection.data<std::int32_t>(), sequence.data<std::int32_t>(),
                                 counts.mutable_data<T>(),
                                 {selection.shape()[0], num_experts, selection.shape()[1], num_sequences});
    });
  });
  return counts;
}

Var balance_loss(Tape& tape, const Var& probabilities, const Tensor& counts, const Tensor& sequence,
                 std::int64_t experts_per_token, double weight, const Tensor& squares) {
  const Tensor& p = probabilities.value;
  check(p.shape().rank() == 2 && sequence.shape() == Shape{p.shape()[0]},
        "balance_loss: sequence has shape {}, expected [T] (probabilities are {}, expected [T,E])", sequence.shape(),
        p.shape());
  check(counts.shape().rank() == 2 && counts.shape()[1] == p.shape()[1] && counts.dtype() == p.dtype(),
        "balance_loss: counts are {} {}, expected {} [S,{}]", counts.dtype(), counts.shape(), p.dtype(), p.shape()[1]);
  const kernels::BalanceShape shape{p.shape()[0], p.shape()[1], experts_per_token, counts.shape()[0]};
  Tensor loss = Tensor::empty(p.memory(), p.dtype(), {1});
  dispatch_float("balance_loss", p.dtype(), [&]<class T>() {
    on_device(p, [&](const auto& device) {
      kernels::balance_loss(device, p.data<T>(), counts.data<T>(), sequence.data<std::int32_t>(),
                            loss.mutable_data<T>(), shape, weight);
    });
    add_squares(tape, p, squares, [&](const auto& device, double* of_tokens) {
      kernels::balance_loss_squares(device, p.data<T>(), counts.data<T>(), sequence.data<std::int32_t>(), of_tokens,
                                    shape, weight);
    });
  });
  Var out = tape.output(std::move(loss), {&probabilities});
  if (!out.slot) return out;
  tape.push({"balance_loss",
             {probabilities.slot},
             [=, slot = out.slot, like = outline(out.value), to = probabilities.slot, of_sequences = Saved(counts),
              of = Saved(sequence)] {
               const Tensor dloss = gradient(slot, like);
               Tensor dp = Tensor::empty(like.memory(), like.dtype(), {shape.tokens, shape.experts});
               dispatch_float("balance_loss", like.dtype(), [&]<class T>() {
                 on_device(dp, [&](const auto& device) {
                   kernels::balance_loss_gradient(device, of_sequences.get().data<T>(), of.get().data<std::int32_t>(),
                                                  dloss.data<T>(), dp.mutable_data<T>(), shape, weight);
                 });
               });
               accumulate(to, dp);
             }});
  return out;
}

Var batch_balance_loss(Tape& tape, const Var& probabilities, const Tensor& selection, nn::BatchComm& comm,
                       double weight, const Tensor& squares) {
  const Tensor& p = probabilities.value;
  const kernels::BalanceShape shape = balance_shape(p, selection);
  Tensor counts = Tensor::empty(p.memory(), p.dtype(), {shape.experts});
  Tensor loss = Tensor::empty(p.memory(), p.dtype(), {1});
  dispatch_float("balance_loss", p.dtype(), [&]<class T>() {
    on_device(p, [&](const auto& device) {
      kernels::count_assignments(device, selection.data<std::int32_t>(), nullptr, counts.mutable_data<T>(), shape);
    });
    comm.sum(counts);
    on_device(p, [&](const auto& device) {
      kernels::shared_balance_loss(device, p.data<T>(), counts.data<T>(), loss.mutable_data<T>(), shape, weight);
    });
    add_squares(tape, p, squares, [&](const auto& device, double* of_tokens) {
      kernels::balance_loss_squares(device, p.data<T>(), counts.data<T>(), nullptr, of_tokens, shape, weight);
    });
  });
  Var out = tape.output(std::move(loss), {&probabilities});
  if (out.slot)
    tape.push({"batch_balance_loss",
               {probabilities.slot},
               [=, slot = out.slot, like = outline(out.value), to = probabilities.slot, of_all = Saved(counts)] {
                 const Tensor dloss = gradient(slot, like);
                 Tensor dp = Tensor::empty(like.memory(), like.dtype(), {shape.tokens, shape.experts});
                 dispatch_float("balance_loss", like.dtype(), [&]<class T>() {
                   on_device(dp, [&](const auto& device) {
                     kernels::shared_balance_loss_gradient(device, of_all.get().data<T>(), dloss.data<T>(),
                                                           dp.mutable_data<T>(), shape, weight);
                   });
                 });
                 accumulate(to, dp);
               }});
  return out;
}

Var z_loss(Tape& tape, const Var& logits, double weight, const Tensor& squares) {
  const Tensor& z = logits.value;
  check(z.shape().rank() == 2 && z.shape()[1] > 0, "z_loss: logits have shape {}, expected [T,E] with E > 0",
        z.shape());
  const std::int64_t tokens = z.shape()[0], experts = z.shape()[1];
  Tensor logsumexp = Tensor::empty(z.memory(), z.dtype(), {tokens});
  Tensor loss = Tensor::empty(z.memory(), z.dtype(), {1});
  dispatch_float("z_loss", z.dtype(), [&]<class T>() {
    on_device(z, [&](const auto& device) {
      kernels::z_loss(device, z.data<T>(), logsumexp.mutable_data<T>(), loss.mutable_data<T>(), tokens, experts,
                      weight);
    });
    add_squares(tape, z, squares, [&](const auto& device, double* of_tokens) {
      kernels::z_loss_squares(device, z.data<T>(), logsumexp.data<T>(), of_tokens, tokens, experts, weight);
    });
  });
  Var out = tape.output(std::move(loss), {&logits});
  if (!out.slot) return out;
  tape.push(
      {"z_loss",
       {logits.slot},
       [=, slot = out.slot, like = outline(out.value), to = logits.slot, saved_z = Saved(z), lse = Saved(logsumexp)] {
         const Tensor dloss = gradient(slot, like);
         Tensor dz = empty_like(saved_z.get());
         dispatch_float("z_loss", dz.dtype(), [&]<class T>() {
           on_device(dz, [&](const auto& device) {
             kernels::z_loss_gradient(device, saved_z.get().data<T>(), lse.get().data<T>(), dloss.data<T>(),
                                      dz.mutable_data<T>(), tokens, experts, weight);
           });
         });
         accumulate(to, dz);
       }});
  return out;
}

}  // namespace limbeck::core
