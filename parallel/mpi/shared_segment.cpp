#include "parallel/mpi/shared_segment.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <new>

#include "core/slice.h"
#include "parallel/comm/reduce.h"

namespace limbeck::parallel {
namespace {

/// MPI gives no alignment; it maps whole pages, so that every rank rounds up to the same place.
std::byte* aligned(void* base) {
  constexpr std::uintptr_t to = alignof(SharedSegment::Progress);
  const auto address = reinterpret_cast<std::uintptr_t>(base);
  return static_cast<std::byte*>(base) + ((address + to - 1) / to * to - address);
}

}  // namespace

SharedSegment::SharedSegment(MPI_Comm comm) {
  int size = 1;
  MPI_Comm_rank(comm, &rank_);
  MPI_Comm_size(comm, &size);
  const auto bytes = static_cast<MPI_Aint>(2 * sizeof(Progress)) + num_pieces * piece_bytes;
  void* mine = nullptr;
  core::check(
      MPI_Win_allocate_shared(bytes, 1, MPI_INFO_NULL, comm, static_cast<void*>(&mine), &window_) == MPI_SUCCESS,
      "mpi: the node refused {} KiB of shared memory", bytes >> 10);
  new (aligned(mine)) Progress{};
  for (int r = 0; r < size; ++r) {
    MPI_Aint length = 0;
    int unit = 1;
    void* base = nullptr;
    MPI_Win_shared_query(window_, r, &length, &unit, static_cast<void*>(&base));
    progress_.push_back(reinterpret_cast<Progress*>(aligned(base)));
    data_.push_back(aligned(base) + sizeof(Progress));
  }
  MPI_Barrier(comm);  // everybody's counters are zero
}

SharedSegment::~SharedSegment() { MPI_Win_free(&window_); }

SharedReduction::SharedReduction(SharedSegment& segment, core::DType dtype, core::Reduce reduction, std::byte* data,
                                 std::int64_t count)
    : segment_(segment),
      dtype_(dtype),
      reduce_(reduction),
      data_(data),
      count_(count),
      piece_elements_(SharedSegment::piece_bytes / core::bytes_of(dtype, 1)),
      base_(segment.progress(segment.rank()).out.load()),
      end_(base_ + (count + piece_elements_ - 1) / piece_elements_) {}

SharedReduction::Piece SharedReduction::piece(std::int64_t number) const {
  const std::int64_t first = (number - base_) * piece_elements_;
  return {first, std::min(piece_elements_, count_ - first)};
}

bool SharedReduction::progress() {
  using Progress = SharedSegment::Progress;
  const auto least = [&](std::atomic<std::int64_t> Progress::*counter) {
    std::int64_t n = std::numeric_limits<std::int64_t>::max();
    for (int r = 0; r < segment_.size(); ++r)
      n = std::min(n, (segment_.progress(r).*counter).load(std::memory_order_acquire));
    return n;
  };
  Progress& mine = segment_.progress(segment_.rank());
  const auto advance = [](std::atomic<std::int64_t>& counter) { counter.fetch_add(1, std::memory_order_release); };
  while (mine.out < end_) {
    bool any = false;
    if (mine.in < end_ && mine.in < least(&Progress::out) + SharedSegment::num_pieces) {
      copy_in();
      advance(mine.in);
      any = true;
    }
    if (mine.reduced < mine.in && mine.reduced < least(&Progress::in)) {
      reduce_slice();
      advance(mine.reduced);
      any = true;
    }
    if (mine.out < mine.reduced && mine.out < least(&Progress::reduced)) {
      copy_out();
      advance(mine.out);
      any = true;
    }
    if (!any) return false;
  }
  return true;
}

void SharedReduction::copy_in() {
  const std::int64_t number = segment_.progress(segment_.rank()).in;
  const Piece p = piece(number);
  std::memcpy(segment_.piece(segment_.rank(), number), data_ + core::bytes_of(dtype_, p.first),
              static_cast<std::size_t>(core::bytes_of(dtype_, p.count)));
}

void SharedReduction::reduce_slice() {
  const std::int64_t number = segment_.progress(segment_.rank()).reduced;
  const core::Slice slice = core::slice_of(piece(number).count, segment_.rank(), segment_.size());
  const std::int64_t first = core::bytes_of(dtype_, slice.first);
  std::vector<const std::byte*> from;
  for (int r = 0; r < segment_.size(); ++r) from.push_back(segment_.piece(r, number) + first);
  std::byte* to = segment_.piece(segment_.rank(), number) + first;  // where nobody else reads before it is done
  reduce(dtype_, reduce_, from, std::span(&to, 1), slice.count);
}

void SharedReduction::copy_out() {
  const std::int64_t number = segment_.progress(segment_.rank()).out;
  const Piece p = piece(number);
  for (int r = 0; r < segment_.size(); ++r) {
    const core::Slice slice = core::slice_of(p.count, r, segment_.size());
    std::memcpy(data_ + core::bytes_of(dtype_, p.first + slice.first),
                segment_.piece(r, number) + core::bytes_of(dtype_, slice.first),
                static_cast<std::size_t>(core::bytes_of(dtype_, slice.count)));
  }
}

}  // namespace limbeck::parallel
