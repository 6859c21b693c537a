// Collectives through memory that the ranks of a node share, in rounds of a piece a rank: each copies into its part
// what others are to read, and out of theirs what is for itself.
//
//     SharedReduction sums(segment, dtype, Reduce::Sum, data, count);      // all_reduce
//     SharedExchange rows(segment, parts);                                 // all_gather, all_to_all_v
//     SharedReduceScatter share(segment, parts, dtype);                    // reduce_scatter
//     while (!sums.progress()) { /* pause */ }
//
// All ranks of the segment make the same transfers in the same order. What a transfer reads and writes outlives it.
#pragma once

#include <cstdint>
#include <vector>

#include "core/comm.h"
#include "parallel/mpi/shared_segment.h"

namespace limbeck::parallel {

class SharedTransfer {
 public:
  virtual ~SharedTransfer() = default;
  SharedTransfer(const SharedTransfer&) = delete;
  SharedTransfer& operator=(const SharedTransfer&) = delete;

  /// Moves on by one round where it can without waiting; true once all is done.
  bool progress();
  /// Ranks of the segment that have done less than this one; from any thread.
  std::vector<int> behind() const;

 protected:
  /// `num_rounds` is the same on all ranks. With `reduces`, what all have copied in is worked on where it lies before
  /// it is copied out.
  SharedTransfer(SharedSegment& segment, std::int64_t num_rounds, bool reduces);

  int rank() const { return segment_.rank(); }
  int size() const { return segment_.size(); }
  std::byte* piece(int rank, std::int64_t round) const { return segment_.piece(rank, base_ + round); }

 private:
  virtual void copy_in(std::int64_t round) = 0;
  virtual void reduce_slice(std::int64_t) {}
  virtual void copy_out(std::int64_t round) = 0;

  SharedSegment& segment_;
  bool reduces_;
  std::int64_t base_;  // rounds of earlier transfers
  std::int64_t end_;
};

/// `count` elements of every rank, which become their reduction: each rank reduces its slice of every piece, in rank
/// order.
class SharedReduction final : public SharedTransfer {
 public:
  SharedReduction(SharedSegment& segment, core::DType dtype, core::Reduce reduce, std::byte* data, std::int64_t count);

 private:
  struct Piece {
    std::int64_t first, count;  // elements
  };
  Piece piece_of(std::int64_t round) const;
  void copy_in(std::int64_t round) override;
  void reduce_slice(std::int64_t round) override;
  void copy_out(std::int64_t round) override;

  core::DType dtype_;
  core::Reduce reduce_;
  std::byte* data_;
  std::int64_t count_;
};

struct Part {
  std::int64_t first = 0, bytes = 0;
};

/// What a rank has for each, itself among them, and where it wants what each has for it. What r sends to s is as long
/// as what s receives from r.
struct ExchangedParts {
  const std::byte* from = nullptr;
  std::byte* to = nullptr;
  std::vector<Part> sent{}, received{};  // by rank
  bool is_same_for_all = false;          // all that is sent is one part
};

/// Brings every part to whom it is for. A piece is cut into as many slots as there are readers, or is one that all
/// read.
class SharedExchange : public SharedTransfer {
 public:
  /// `longest` is the greatest of all parts of all ranks, in bytes, and the same on all of them.
  SharedExchange(SharedSegment& segment, ExchangedParts parts, std::int64_t longest);

 protected:
  /// A round's bytes of a part.
  Part portion(std::int64_t round, const Part& part) const;
  /// Where this rank finds them of what `writer` has for it.
  const std::byte* source(int writer, std::int64_t round) const;
  const ExchangedParts& parts() const { return parts_; }

 private:
  void copy_in(std::int64_t round) final;
  void copy_out(std::int64_t round) override;
  std::byte* slot(int writer, int reader, std::int64_t round) const;

  ExchangedParts parts_;
  std::int64_t room_;  // bytes of a slot
};

/// What all ranks have for this one is added up, in rank order, where `parts.to` begins; all parts are equally long.
class SharedReduceScatter final : public SharedExchange {
 public:
  SharedReduceScatter(SharedSegment& segment, ExchangedParts parts, core::DType dtype);

 private:
  void copy_out(std::int64_t round) override;

  core::DType dtype_;
};

}  // namespace limbeck::parallel
