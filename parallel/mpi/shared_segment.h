// A reduction among the ranks of one node through memory that they share: each rank copies its numbers in piece by
// piece, reduces its own slice of every piece in rank order, and copies the sums out.
//
//     SharedSegment segment(rank, size);                          // this rank's part of the memory
//     ... every rank hears segment.offer() of every other ...
//     if (segment.join(offers)) {
//       SharedReduction r(segment, dtype, Reduce::Sum, data, count);
//       while (!r.progress()) { /* pause */ }
//     }
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/comm.h"

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
  };

  /// Makes this rank's part, over 1 MiB that no file system counts. Where the system refuses it, the offer is none.
  SharedSegment(int rank, int size);
  ~SharedSegment();
  SharedSegment(const SharedSegment&) = delete;
  SharedSegment& operator=(const SharedSegment&) = delete;

  const Offer& offer() const { return offer_; }
  /// Maps the parts of all ranks, in rank order; false where one is none or is refused.
  bool join(std::span<const Offer> offers);

  /// How many pieces a rank has copied in, reduced and copied out, since the segment was made.
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

class SharedReduction {
 public:
  SharedReduction(SharedSegment& segment, core::DType dtype, core::Reduce reduce, std::byte* data, std::int64_t count);
  /// Moves on by one piece where it can without waiting; true once all is done.
  bool progress();
  /// Ranks of the segment that have done less than this one; from any thread.
  std::vector<int> behind() const;

 private:
  struct Piece {
    std::int64_t first, count;  // elements
  };
  Piece piece(std::int64_t number) const;
  void copy_in();
  void reduce_slice();
  void copy_out();

  SharedSegment& segment_;
  core::DType dtype_;
  core::Reduce reduce_;
  std::byte* data_;
  std::int64_t count_;
  std::int64_t piece_elements_;
  std::int64_t base_;  // pieces of earlier reductions
  std::int64_t end_;
};

}  // namespace limbeck::parallel
