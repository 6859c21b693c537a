// Memory that the ranks of a group on one node share: of each rank a part that it writes and all read. What goes
// through it is in shared_transfer.h.
//
//     SharedSegment segment(rank, size);                          // this rank's part of the memory
//     ... every rank hears segment.offer() of every other ...
//     if (segment.join(offers)) { /* all of them do, or none uses it */ }
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace limbeck::parallel {

class SharedSegment {
 public:
  static constexpr std::int64_t piece_bytes = std::int64_t{512} << 10;
  static constexpr int num_pieces = 2;  // a rank copies the next piece in while the others still read the last

  /// Where another process of this machine finds a rank's part. Plain bytes, so that it can travel.
  struct Offer {
    std::int32_t process = 0;  // 0: none could be made
    std::int32_t file = -1;
    std::uint64_t device = 0, inode = 0;
    std::uint64_t address = 0;  // of the part, there
  };

  /// Makes this rank's part, over 1 MiB that no file system counts. Where the system refuses it, the offer is none.
  SharedSegment(int rank, int size);
  ~SharedSegment();
  SharedSegment(const SharedSegment&) = delete;
  SharedSegment& operator=(const SharedSegment&) = delete;

  const Offer& offer() const { return offer_; }
  /// Maps the parts of all ranks, in rank order; false where one is none or is refused.
  bool join(std::span<const Offer> offers);
  /// Whether this process may read the memory of all the others (process_vm_readv), as MPI does where it may.
  bool can_read(std::span<const Offer> offers) const;

  /// How many pieces a rank has copied in, reduced where that is asked, and copied out, since the segment was made.
  struct alignas(64) Progress {
    std::atomic<std::int64_t> in, reduced, out;
  };
  static_assert(std::atomic<std::int64_t>::is_always_lock_free);

  int rank() const { return rank_; }
  int size() const { return static_cast<int>(parts_.size()); }
  Progress& progress(int rank) const { return *reinterpret_cast<Progress*>(part(rank)); }
  std::byte* piece(int rank, std::int64_t number) const {
    return part(rank) + sizeof(Progress) + number % num_pieces * piece_bytes;
  }

 private:
  std::byte* part(int rank) const { return parts_[static_cast<std::size_t>(rank)]; }

  int rank_;
  int file_ = -1;
  Offer offer_;
  std::vector<std::byte*> parts_;  // null until they are mapped
};

}  // namespace limbeck::parallel
