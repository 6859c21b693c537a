// One collective, send or receive over MPI, as a row of non-blocking steps. First all ranks tell each other what they
// call, with the numbers themselves where they are few; then the data moves in point-to-point pieces, each as large as
// the receiver expects; sums are formed here, in rank order.
//
//     MpiTransfer transfer(group, std::move(call), sequence);
//     while (!transfer.progress()) { /* pause */ }
#pragma once

#include <mpi.h>

#include <array>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "parallel/comm/call.h"
#include "parallel/comm/engine.h"
#include "parallel/mpi/shared_segment.h"

namespace limbeck::parallel {

struct MpiGroup {
  int id = 0;
  std::string name;
  MPI_Comm comm = MPI_COMM_NULL;
  int rank = 0;
  int size = 1;
  std::unique_ptr<SharedSegment> segment;  // null unless all ranks lie on one node
};

class MpiTransfer final : public Operation {
 public:
  /// Reductions from this size on go through shared memory within a node.
  static constexpr std::int64_t shared_from_bytes = std::int64_t{256} << 10;

  MpiTransfer(MpiGroup& group, Call call, std::int64_t sequence);
  bool progress() override;
  bool is_hot() const override {
    return call_.signature.kind != CallKind::Send &&
           (stage_ == Stage::Shared || stage_ == Stage::Scattering || stage_ == Stage::Last);
  }

 private:
  enum class Stage { Start, Announced, Shared, Scattering, Last, Stuck };

  struct Header {  // of every collective and message
    CallSignature signature;
    std::array<std::byte, 224> numbers{};  // of a small all_reduce
  };
  struct Part {
    std::int64_t first = 0, bytes = 0;
  };
  using PartOf = std::function<Part(int)>;  // by rank

  void announce();
  bool read_announcements();
  void start_data();
  void finish_scatter();
  void exchange(const std::byte* from, const PartOf& sent, std::byte* to, const PartOf& received);
  void post_receive(std::byte* to, std::int64_t bytes, int from, int tag);
  void post_send(const std::byte* from, std::int64_t bytes, int to, int tag);
  bool test();
  Part element_slice(int rank) const;
  bool is_small() const;

  MpiGroup& group_;
  Call call_;
  std::int64_t sequence_;
  Stage stage_ = Stage::Start;
  Header header_;
  std::vector<Header> headers_;
  std::vector<std::byte> scattered_;  // every rank's numbers for this rank's slice
  std::optional<SharedReduction> shared_;
  std::vector<MPI_Request> requests_;
  struct Expected {
    std::size_t request;
    std::int64_t bytes;
    int from;
  };
  std::vector<Expected> expected_;
  std::vector<MPI_Status> statuses_;
};

}  // namespace limbeck::parallel
