// What a model needs of its peers, and no more. parallel/ implements these over its mesh; the ones here are for one
// rank. Collectives are named by both directions: the comment says what the backward of each does.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "core/comm.h"
#include "core/tensor.h"

namespace limbeck::nn {

using core::CommHandle;
using core::Tensor;

/// Which tokens go where, agreed on: what a dispatch needs to be undone and repeated. The rest of it is the
/// ExpertComm's own that made it.
class Exchange {
 public:
  virtual ~Exchange() = default;
  /// [U,K] int32: what the tokens that come here choose among the experts here, counted from 0; -1: what is elsewhere,
  /// or dropped.
  Tensor selection;
  std::int64_t num_rows = 0;  // as many of these choices as are experts here, or more
};
using ExchangePtr = std::shared_ptr<const Exchange>;

/// Rows, or sums of them, on their way: called once, it waits for them. Meanwhile this rank has other work; on a GPU
/// kernels that are queued before it is called run beside the exchange.
using RowsUnderWay = std::function<Tensor()>;

/// Moves tokens to the ranks of their experts and back. Tensor-level (no tape): core/ops/moe_exchange.h makes
/// differentiable ops of it, in which the backward of dispatch is a combine, and the other way round. Where each expert
/// is cut over several ranks, all of them get its tokens. Every rank calls each of them equally often and in the same
/// order, also without tokens.
class ExpertComm {
 public:
  virtual ~ExpertComm() = default;
  virtual std::int64_t size() const = 0;  // parts into which the experts are dealt
  virtual std::int64_t rank() const = 0;  // the part that lies here
  /// Agrees on who gets what. `selection` [T,K] int32: the experts that the tokens here choose, -1: dropped. Part i of
  /// the experts is slice i of them (core/slice.h): parts may be uneven and empty.
  virtual ExchangePtr prepare(const Tensor& selection, std::int64_t num_experts) = 0;
  /// x [T,...] -> [U,...]: each token once to every rank that has an expert of its choice, in an order that depends on
  /// the choices alone.
  virtual RowsUnderWay start_dispatch(const ExchangePtr& exchange, const Tensor& x) = 0;
  /// The transpose: y [U,...] -> [T,...], each token's sum over the ranks that have it, in an order of the ranks; zeros
  /// where none has.
  virtual RowsUnderWay start_combine(const ExchangePtr& exchange, const Tensor& y) = 0;

  Tensor dispatch_rows(const ExchangePtr& exchange, const Tensor& x) { return start_dispatch(exchange, x)(); }
  Tensor combine_rows(const ExchangePtr& exchange, const Tensor& y) { return start_combine(exchange, y)(); }
};

/// Copies of some experts, of so many, on all ranks among which they are dealt as core/slice.h cuts. Tensor-level (no
/// tape): core/ops/replicas.h makes a differentiable op of it. Every rank calls each of them equally often, in the same
/// order and with the same experts.
class ReplicaComm {
 public:
  virtual ~ReplicaComm() = default;
  /// Of `experts`, ascending, from each rank's part of the stack, [E_local,...] -> [experts,...].
  virtual RowsUnderWay start_gather(const Tensor& stack, std::span<const std::int64_t> experts,
                                    std::int64_t num_experts) = 0;
  /// Of each of these that lies here, in their order, the sum over the ranks' x [experts,...], in rank order.
  virtual Tensor sum_of_own(const Tensor& x, std::span<const std::int64_t> experts, std::int64_t num_experts) = 0;
  /// Where those that lie here are in the stack.
  virtual std::vector<std::int64_t> own(std::span<const std::int64_t> experts, std::int64_t num_experts) const = 0;
};

/// Sums over the ranks that share a batch.
class BatchComm {
 public:
  virtual ~BatchComm() = default;
  virtual void sum(Tensor& x) = 0;  // in place; not differentiable: counts and statistics
};

/// The ranks that see the same tokens and over which single tensors are cut, as core/slice.h deals. Tensor-level (no
/// tape): core/ops/tensor_exchange.h makes differentiable ops of it. One rank: nothing to do.
class TensorComm {
 public:
  virtual ~TensorComm() = default;
  virtual std::int64_t size() const = 0;
  virtual std::int64_t rank() const = 0;
  /// x itself becomes the sum over the ranks: over the parts of a vocabulary or a row.
  virtual RowsUnderWay start_sum(Tensor x) = 0;
  virtual void max(Tensor& x) = 0;
  /// Every rank's part of `dimension`, in rank order, which together are `total` long.
  virtual RowsUnderWay start_gather(const Tensor& part, int dimension, std::int64_t total) = 0;
  /// This rank's rows of the sum of every rank's x [T,...]; of gathering rows, the transpose.
  virtual RowsUnderWay start_sum_share(const Tensor& x) = 0;

  void sum(Tensor& x) { start_sum(x)(); }
  Tensor gather(const Tensor& part, int dimension, std::int64_t total) {
    return start_gather(part, dimension, total)();
  }
  Tensor sum_share(const Tensor& x) { return start_sum_share(x)(); }
};

/// The ranks that have other tokens of the same sequences (core/ops/ring_attention.h). Every rank calls each of them
/// equally often and in the same order.
class ContextComm {
 public:
  virtual ~ContextComm() = default;
  virtual std::int64_t size() const = 0;
  virtual std::int64_t rank() const = 0;
  virtual void sum(Tensor& x) = 0;  // in place; not differentiable: counts of whole sequences
  /// [P N,...]: rows [N,...] of each of the P ranks, which has as many, in rank order.
  virtual Tensor gather(const Tensor& rows) = 0;
  /// `rows` [N,...] go to the rank `by` places further, round the end (negative: back), and `arriving` [M,...] fills
  /// with those of the rank as many places behind. Either may have no row, where its other end has none.
  virtual CommHandle start_pass(std::int64_t by, const Tensor& rows, const Tensor& arriving) = 0;
};

struct Communicators {
  std::shared_ptr<TensorComm> tensor;
  std::shared_ptr<ExpertComm> expert;
  std::shared_ptr<ReplicaComm> replicas;  // none where all experts are on one rank, or each is cut
  std::shared_ptr<BatchComm> batch;
  std::shared_ptr<ContextComm> context;
};

/// One rank alone; they have no state and live as long as the program.
const Communicators& single_communicators();

}  // namespace limbeck::nn
