#include "parallel/mpi/shared_segment.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <new>
#include <string>

#include "core/slice.h"
#include "parallel/comm/reduce.h"

namespace limbeck::parallel {
namespace {

constexpr auto part_bytes =
    static_cast<std::int64_t>(sizeof(SharedSegment::Progress)) + SharedSegment::num_pieces * SharedSegment::piece_bytes;

/// Null where the system refuses it.
std::byte* map(int file) {
  void* at = ::mmap(nullptr, static_cast<std::size_t>(part_bytes), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  return at == MAP_FAILED ? nullptr : static_cast<std::byte*>(at);
}

/// Null unless the process still has this very file open, and it may be mapped here.
std::byte* map(const SharedSegment::Offer& offer) {
  const std::string path = fmt::format("/proc/{}/fd/{}", offer.process, offer.file);
  struct stat found {};
  if (offer.process == 0 || ::stat(path.c_str(), &found) != 0) return nullptr;
  if (found.st_dev != offer.device || found.st_ino != offer.inode) return nullptr;
  const int file = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (file < 0) return nullptr;
  std::byte* at = map(file);
  ::close(file);
  return at;
}

}  // namespace

SharedSegment::SharedSegment(int rank, int size)
    : rank_(rank), file_(::memfd_create("limbeck", MFD_CLOEXEC)), parts_(static_cast<std::size_t>(size), nullptr) {
  struct stat mine {};
  // The pages are taken here: where there are none left, the first write to them would end the process.
  if (file_ < 0 || ::posix_fallocate(file_, 0, part_bytes) != 0 || ::fstat(file_, &mine) != 0) return;
  std::byte*& at = parts_[static_cast<std::size_t>(rank)];
  at = map(file_);
  if (at == nullptr) return;
  new (at) Progress{};
  offer_ = {.process = ::getpid(), .file = file_, .device = mine.st_dev, .inode = mine.st_ino};
}

bool SharedSegment::join(std::span<const Offer> offers) {
  for (std::size_t r = 0; r < parts_.size(); ++r)
    if (parts_[r] == nullptr) parts_[r] = map(offers[r]);
  return std::find(parts_.begin(), parts_.end(), nullptr) == parts_.end();
}

SharedSegment::~SharedSegment() {
  for (std::byte* part : parts_)
    if (part != nullptr) ::munmap(part, static_cast<std::size_t>(part_bytes));
  if (file_ >= 0) ::close(file_);
}

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
  if (mine.in < end_ && mine.in < least(&Progress::out) + SharedSegment::num_pieces) {
    copy_in();
    advance(mine.in);
  }
  if (mine.reduced < mine.in && mine.reduced < least(&Progress::in)) {
    reduce_slice();
    advance(mine.reduced);
  }
  if (mine.out < mine.reduced && mine.out < least(&Progress::reduced)) {
    copy_out();
    advance(mine.out);
  }
  return mine.out == end_;
}

std::vector<int> SharedReduction::behind() const {
  const auto done = [&](int r) {
    const SharedSegment::Progress& p = segment_.progress(r);
    return p.in + p.reduced + p.out;
  };
  std::vector<int> ranks;
  for (int r = 0; r < segment_.size(); ++r)
    if (done(r) < done(segment_.rank())) ranks.push_back(r);
  return ranks;
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
