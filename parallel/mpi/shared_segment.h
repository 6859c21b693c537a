// A reduction among the ranks of one node through memory that they share: each rank copies its numbers in piece by
// piece, reduces its own slice of every piece in rank order, and copies the sums out.
//
//     SharedSegment segment(node_comm);                 // collective
//     SharedReduction r(segment, dtype, Reduce::Sum, data, count);
//     while (!r.progress()) { /* pause */ }
#pragma once

#include <mpi.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/comm.h"

namespace limbeck::parallel {

class SharedSegment {
 public:
  static constexpr std::int64_t piece_bytes = std::int64_t{512} << 10;
  static constexpr int num_pieces = 2;  // a rank copies the next piece in while the others still read the last

  /// All ranks of `comm` lie on one node. Collective, as are MPI_Comm_size(comm) = 1 and more.
  explicit SharedSegment(MPI_Comm comm);
  /// Collective.
  ~SharedSegment();
  SharedSegment(const SharedSegment&) = delete;
  SharedSegment& operator=(const SharedSegment&) = delete;

  /// How many pieces a rank has copied in, reduced and copied out, since the segment was made.
  struct alignas(64) Progress {
    std::atomic<std::int64_t> in, reduced, out;
  };
  static_assert(std::atomic<std::int64_t>::is_always_lock_free);

  int rank() const { return rank_; }
  int size() const { return static_cast<int>(progress_.size()); }
  Progress& progress(int rank) { return *progress_[static_cast<std::size_t>(rank)]; }
  std::byte* piece(int rank, std::int64_t number) {
    return data_[static_cast<std::size_t>(rank)] + number % num_pieces * piece_bytes;
  }

 private:
  MPI_Win window_ = MPI_WIN_NULL;
  int rank_ = 0;
  std::vector<Progress*> progress_;
  std::vector<std::byte*> data_;
};

class SharedReduction {
 public:
  SharedReduction(SharedSegment& segment, core::DType dtype, core::Reduce reduce, std::byte* data, std::int64_t count);
  /// Does what can be done without waiting; true once all is.
  bool progress();

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
