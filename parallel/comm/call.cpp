#include "parallel/comm/call.h"

#include "core/slice.h"

namespace limbeck::parallel {

std::string describe(const CallSignature& s) {
  const auto of = [&](const char* what) { return fmt::format("{} of {} {}", what, s.count, s.dtype); };
  switch (s.kind) {
    case CallKind::AllReduce:
      return of(s.reduce == core::Reduce::Sum ? "all_reduce(sum)" : "all_reduce(max)");
    case CallKind::AllGather:
      return of("all_gather");
    case CallKind::ReduceScatter:
      return of("reduce_scatter");
    case CallKind::AllToAllV:
      return fmt::format("all_to_all_v of rows of {} {}", s.count, s.dtype);
    case CallKind::Send:
      return of("send");
    case CallKind::Receive:
      return of("receive");
    case CallKind::Barrier:
      return "barrier";
  }
  return "unknown collective";
}

std::string describe(const CallName& name) {
  CallName of_all = name;
  of_all.rows_sent = -1;
  return describe_here(of_all);
}

std::string describe_here(const CallName& name) {
  std::string text = describe(name.signature);
  if (name.rows_sent >= 0) text += fmt::format(", {} sent", name.rows_sent);
  if (const std::string of = core::describe(name.of); !of.empty()) text += fmt::format(" ({})", of);
  return text + " in group " + *name.group;
}

bool matches(const CallSignature& a, const CallSignature& b) {
  const auto is_pair = [](CallKind x, CallKind y) { return x == CallKind::Send && y == CallKind::Receive; };
  if (is_pair(a.kind, b.kind) || is_pair(b.kind, a.kind)) return a.dtype == b.dtype && a.count == b.count;
  return a == b;
}

std::string mismatch(const std::string& group, std::int64_t sequence, int rank_a, const CallSignature& a, int rank_b,
                     const CallSignature& b) {
  return fmt::format("group {}, operation {}: rank {} calls {}, rank {} calls {}", group, sequence, rank_a, describe(a),
                     rank_b, describe(b));
}

std::int64_t Call::bytes_for(int to, int rank, int size) const {
  const auto slice_bytes = [&](int of) {
    return core::bytes_of(signature.dtype, core::slice_of(signature.count, of, size).count);
  };
  switch (signature.kind) {
    case CallKind::AllReduce:
      return slice_bytes(to) + slice_bytes(rank);  // to be summed there, and the sums from here
    case CallKind::AllGather:
    case CallKind::ReduceScatter:
      return bytes();
    case CallKind::AllToAllV: {
      const auto at = static_cast<std::size_t>(to);
      return send_offset[at + 1] - send_offset[at];
    }
    case CallKind::Send:
      return to == peer ? bytes() : 0;
    case CallKind::Receive:
    case CallKind::Barrier:
      return 0;
  }
  return 0;
}

std::int64_t Call::rows_sent() const {
  return signature.kind == CallKind::AllToAllV && bytes() > 0 ? send_offset.back() / bytes() : -1;
}

std::int64_t Call::bytes_sent(int rank, int size) const {
  std::int64_t bytes = 0;
  for (int r = 0; r < size; ++r)
    if (r != rank) bytes += bytes_for(r, rank, size);
  return bytes;
}

std::vector<std::int64_t> row_offsets(const char* what, const core::Tensor& t, std::span<const std::int64_t> rows,
                                      int size) {
  core::check(static_cast<int>(rows.size()) == size, "all_to_all_v: {} {} counts in a group of {}", rows.size(), what,
              size);
  core::check(t.shape().rank() > 0, "all_to_all_v: the {} tensor is a scalar, expected rows", what);
  const std::int64_t row_bytes = core::bytes_of(t.dtype(), t.shape().row_size());
  std::vector<std::int64_t> offsets{0};
  std::int64_t total = 0;
  for (const auto n : rows) {
    core::check(n >= 0, "all_to_all_v: {} count {} is negative", what, n);
    total += n;
    offsets.push_back(total * row_bytes);
  }
  core::check(total <= t.shape()[0], "all_to_all_v: {} counts sum to {} rows, the tensor is {}", what, total,
              t.shape());
  return offsets;
}

}  // namespace limbeck::parallel
