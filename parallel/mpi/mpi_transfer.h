// One collective, send or receive over MPI, as a row of non-blocking steps. First all ranks tell each other what they
// call, with the numbers themselves where they are few; then the data moves in point-to-point pieces, each as large as
// the receiver expects; sums are formed here, in rank order.
//
//     MpiTransfer transfer(wire, group, std::move(call), sequence);
//     while (!transfer.progress()) { /* pause */ }
#pragma once

#include <mpi.h>

#include <array>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "parallel/comm/call.h"
#include "parallel/comm/engine.h"
#include "parallel/mpi/shared_segment.h"
#include "parallel/mpi/shared_transfer.h"

namespace limbeck::parallel {

/// Some ranks of the world; their messages are told apart by tags.
struct MpiGroup {
  int id = 0;  // equal on all its ranks; no two groups have the same that share a rank
  std::string name;
  std::vector<int> ranks;  // in the world
  int rank = 0;            // this one's, here
  int size() const { return static_cast<int>(ranks.size()); }
  int in_world(int r) const { return ranks[static_cast<std::size_t>(r)]; }

  // Of the communication thread alone:
  bool may_share = false;                  // all ranks lie on one node, as far as is known
  bool reads_directly = true;              // they may read each other's memory, which is known with the segment
  std::unique_ptr<SharedSegment> segment;  // made for the first large collective
};

/// What a rank tells the others before its data.
struct MpiNote {
  CallSignature signature;
  std::int64_t step = 0;
  std::int64_t number = 0;  // of that rank's operations
};

/// What was last heard of each rank of the world, for any thread.
class MpiHeard {
 public:
  explicit MpiHeard(int num_ranks) : last_(static_cast<std::size_t>(num_ranks)) {}
  /// `name`: of the operation that brought the note, which is this rank's too.
  void note(int rank, const MpiNote& note, CallName name);
  Sign of(int rank) const;

 private:
  struct Last {
    std::int64_t step = 0, number = 0;  // 0: nothing was
    CallName name;
  };
  mutable std::mutex mutex_;
  std::vector<Last> last_;
};

/// What the transfers of all groups share.
struct MpiWire {
  MPI_Comm comm = MPI_COMM_NULL;
  std::int64_t largest_piece = 0;                // bytes of a message
  std::function<void(const std::string&)> warn;  // once; null: nobody listens
  MpiHeard heard;
  std::int64_t num_announced = 0;  // operations of this rank
};

class MpiTransfer final : public Operation {
 public:
  /// Sums from this size on go through shared memory within a node, and what is only copied where no process may read
  /// another's memory, so that messages would be copied twice. The size is of the whole that all ranks have or get; of
  /// all_to_all_v, what the rank sends that sends most.
  static constexpr std::int64_t shared_from_bytes = std::int64_t{256} << 10;
  /// Up to this size their numbers travel whole with what is told before the data.
  static constexpr std::int64_t small_bytes = 224;

  MpiTransfer(MpiWire& wire, std::shared_ptr<MpiGroup> group, Call call, std::int64_t sequence);
  bool progress() override;
  bool is_hot() const override {
    return call_.signature.kind != CallKind::Send &&
           (stage_ == Stage::Shared || stage_ == Stage::Scattering || stage_ == Stage::Last);
  }
  std::vector<Missing> waits_for() const override;

 private:
  enum class Stage { Start, Announced, Offered, Joined, Shared, Scattering, Last, Stuck };

  struct Header {  // of every collective
    MpiNote note;
    std::array<std::byte, small_bytes> numbers{};  // of a small all_reduce; of all_to_all_v, see tells_rows
  };
  struct Posted {  // beside each request
    int peer;
    std::int64_t expected;  // bytes; -1: a send
    bool is_done = false;
  };

  void announce();
  bool read_announcements();
  bool tells_rows() const;
  std::int64_t told_bytes(int from, int to) const;
  void check_told() const;
  std::int64_t whole_bytes() const;
  bool is_for_segment() const;
  bool goes_through_memory() const;
  void offer_segment();
  void join_segment();
  void agree_on_segment();
  void start_data();
  std::unique_ptr<SharedTransfer> start_shared();
  void finish_scatter();
  template <class F>
  std::vector<Part> by_rank(const F& part) const;
  ExchangedParts parts();
  bool is_sum() const;
  void exchange(const ExchangedParts& parts);
  template <class T>
  void tell_all(const T& mine, std::vector<T>& all);
  void post_receive(std::byte* to, std::int64_t bytes, int from);
  void post_send(const std::byte* from, std::int64_t bytes, int to);
  void post(MPI_Request request, int peer, std::int64_t expected);
  bool test();
  void check_received(const Posted& posted, const MPI_Status& status, int result) const;
  void check_length(int from, std::int64_t sent, std::int64_t expected) const;
  std::string place(int peer) const;
  const Header& header_of(int peer) const {
    return headers_[call_.signature.kind == CallKind::Receive ? 0 : static_cast<std::size_t>(peer)];
  }
  int tag() const;
  Part element_slice(int rank) const;
  bool is_small() const;

  MpiWire& wire_;
  std::shared_ptr<MpiGroup> group_;
  Call call_;
  std::int64_t sequence_;
  Stage stage_ = Stage::Start;
  Header header_;
  std::vector<Header> headers_;  // by rank; of a receive: the sender's alone
  std::vector<SharedSegment::Offer> offers_;
  struct Joined {
    bool has_mapped = false, can_read = false;
  };
  Joined joined_;
  std::vector<Joined> all_joined_;
  std::vector<std::byte> scattered_;  // every rank's numbers for this rank's slice
  std::vector<MPI_Request> requests_;
  std::vector<int> done_;
  std::vector<MPI_Status> statuses_;

  mutable std::mutex mutex_;  // for those who ask from another thread
  std::vector<Posted> posted_;
  std::unique_ptr<SharedTransfer> shared_;
};

}  // namespace limbeck::parallel
