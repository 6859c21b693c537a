// One rank's part in one collective: what is asked for and where the bytes lie. Worlds compare the calls that meet at
// the same point of a group's sequence, so that ranks that disagree get an error that names both instead of a hang.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/comm.h"
#include "core/exchanges_of.h"
#include "core/tensor.h"

namespace limbeck::parallel {

enum class CallKind : std::uint8_t { AllReduce, AllGather, ReduceScatter, AllToAllV, Send, Receive, Barrier };

/// What must be equal on all ranks. Plain bytes, so that it can travel.
struct CallSignature {
  CallKind kind = CallKind::Barrier;
  core::Reduce reduce = core::Reduce::Sum;
  core::DType dtype = core::DType::U8;
  std::int64_t count = 0;  // elements: of x; of one row in all_to_all_v

  friend bool operator==(const CallSignature&, const CallSignature&) = default;
};

/// "all_reduce(sum) of 1024 float32".
std::string describe(const CallSignature& signature);

/// What messages call an operation by; nothing is written out before one is told.
struct CallName {
  CallSignature signature = {};
  core::Subject of{};
  std::shared_ptr<const std::string> group = {};
  std::int64_t rows_sent = -1;  // of all_to_all_v; -1: that is not known
};

/// "all_reduce(sum) of 1024 float32 (gradients of layers.0.mlp.up.weight) in group dp gradients": the same words on all
/// ranks that are in it, so that whoever tells of it first makes no difference.
std::string describe(const CallName& name);
/// With what is this rank's alone: "all_to_all_v of rows of 64 float32, 130 sent (experts of layer 3, dispatch) in
/// group experts".
std::string describe_here(const CallName& name);

/// True if the two may meet: equal, or a send and its receive.
bool matches(const CallSignature& a, const CallSignature& b);

/// The error of two ranks (of the world) that disagree at operation `sequence` of the group.
std::string mismatch(const std::string& group, std::int64_t sequence, int rank_a, const CallSignature& a, int rank_b,
                     const CallSignature& b);

struct Call {
  CallSignature signature;
  std::int64_t step = 0;          // of training, that it belongs to
  core::Subject subject{};        // what the rank says that it is of
  int peer = -1;                  // of a send or receive
  const std::byte* in = nullptr;  // what the others read
  std::byte* out = nullptr;       // what this rank receives; all_reduce: the same bytes as `in`
  std::vector<std::int64_t> send_offset{}, receive_offset{};  // all_to_all_v: bytes, one a rank and the end
  std::array<core::Tensor, 2> tensors{};                      // keeps the memory while the call is under way

  std::int64_t bytes() const { return core::bytes_of(signature.dtype, signature.count); }
  /// What rank `rank` of a group of `size` hands out for `to`, another one. Each rank forms the sum of its slice of an
  /// all_reduce and gives it to all, and nothing goes by way of a third; how it gets there, by a message or through
  /// memory that both have, makes no difference.
  std::int64_t bytes_for(int to, int rank, int size) const;
  /// Of all_to_all_v, to this rank itself too; -1: of anything else.
  std::int64_t rows_sent() const;
  /// For all others together.
  std::int64_t bytes_sent(int rank, int size) const;
};

/// Byte offsets of an all_to_all_v's rows for each rank, and their end; throws unless there is one count a rank and all
/// fit in `t`, which is `what`: "send" or "receive".
std::vector<std::int64_t> row_offsets(const char* what, const core::Tensor& t, std::span<const std::int64_t> rows,
                                      int size);

}  // namespace limbeck::parallel
