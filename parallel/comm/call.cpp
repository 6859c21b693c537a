#include "parallel/comm/call.h"

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

}  // namespace limbeck::parallel
