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

/// The rows of a batch after dispatch, as this rank's experts see them.
struct Dispatched {
  Tensor rows;     // [R,C] sorted by local expert, then by source rank, then by the source's order; R >= offsets.back()
  Tensor offsets;  // [E_local+1] int64: rows [offsets[e], offsets[e+1]) belong to local expert e
};

/// What a dispatch needs to be undone and repeated.
class Exchange {
 public:
  virtual ~Exchange() = default;
  std::int64_t num_sent = 0;  // of the rows that are dispatched the first so many go somewhere
};
using ExchangePtr = std::shared_ptr<const Exchange>;

/// Rows on their way: called once, it waits for them. Meanwhile this rank has other work; on a GPU kernels that are
/// queued before it is called run beside the exchange.
using RowsUnderWay = std::function<Tensor()>;

/// Moves rows between tokens' ranks and experts' ranks. Tensor-level (no tape): core/ops/moe_exchange.h makes
/// differentiable ops of it, in which the backward of dispatch is combine_rows, and the backward of combine is
/// dispatch_rows. Where each expert is cut over several ranks, all of them get its rows, and what they give back is
/// summed. Every rank calls each of them equally often and in the same order, also with zero rows.
class ExpertComm {
 public:
  virtual ~ExpertComm() = default;
  virtual std::int64_t size() const = 0;  // parts into which the experts are dealt
  virtual std::int64_t rank() const = 0;  // the part that lies here
  /// Agrees on the counts. `counts` [E] int64: rows this rank sends to each global expert, of `num_rows` that there
  /// are; expert e lies in part e / (E / size). Fills `offsets` as in Dispatched.
  virtual ExchangePtr prepare(const Tensor& counts, std::int64_t num_rows, Tensor& offsets) = 0;
  /// rows [num_rows,C], sorted by global expert -> rows of the local experts [R,C].
  virtual RowsUnderWay start_dispatch(const ExchangePtr& exchange, const Tensor& rows) = 0;
  /// The exact reverse: rows of the local experts [R,C] -> [num_rows,C] in the order of the sender, summed in rank
  /// order over the ranks that share an expert.
  virtual RowsUnderWay start_combine(const ExchangePtr& exchange, const Tensor& rows) = 0;

  Tensor dispatch_rows(const ExchangePtr& exchange, const Tensor& rows) { return start_dispatch(exchange, rows)(); }
  Tensor combine_rows(const ExchangePtr& exchange, const Tensor& rows) { return start_combine(exchange, rows)(); }
};

/// Copies of some experts on all ranks among which they are dealt. Tensor-level (no tape): core/ops/replicas.h makes a
/// differentiable op of it. Every rank calls each of them equally often, in the same order and with the same experts.
class ReplicaComm {
 public:
  virtual ~ReplicaComm() = default;
  /// Of `experts`, ascending, from each rank's part of the stack, [E_local,...] -> [experts,...].
  virtual RowsUnderWay start_gather(const Tensor& stack, std::span<const std::int64_t> experts) = 0;
  /// Of each of these that lies here, in their order, the sum over the ranks' x [experts,...], in rank order.
  virtual Tensor sum_of_own(const Tensor& x, std::span<const std::int64_t> experts, std::int64_t num_local) = 0;
  /// Where those that lie here are in the stack, of so many.
  virtual std::vector<std::int64_t> own(std::span<const std::int64_t> experts, std::int64_t num_local) const = 0;
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
  virtual void sum(Tensor& x) = 0;  // in place, over the parts of a vocabulary or a row
  virtual void max(Tensor& x) = 0;
  /// Every rank's part of `dimension`, in rank order, which together are `total` long.
  virtual Tensor gather(const Tensor& part, int dimension, std::int64_t total) = 0;
  /// This rank's rows of the sum of every rank's x [T,...]; of gathering rows, the transpose.
  virtual Tensor sum_share(const Tensor& x) = 0;
};

/// The ranks that have other tokens of the same sequences (core/ops/ring_attention.h). Every rank calls each of them
/// equally often and in the same order.
class ContextComm {
 public:
  virtual ~ContextComm() = default;
  virtual std::int64_t size() const = 0;
  virtual std::int64_t rank() const = 0;
  virtual void sum(Tensor& x) = 0;  // in place; not differentiable: counts of whole sequences
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
