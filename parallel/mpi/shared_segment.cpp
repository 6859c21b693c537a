#include "parallel/mpi/shared_segment.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <fmt/format.h>

#include <algorithm>
#include <new>
#include <string>

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
  offer_ = {.process = ::getpid(),
            .file = file_,
            .device = mine.st_dev,
            .inode = mine.st_ino,
            .address = reinterpret_cast<std::uint64_t>(at)};
}

bool SharedSegment::join(std::span<const Offer> offers) {
  for (std::size_t r = 0; r < parts_.size(); ++r)
    if (parts_[r] == nullptr) parts_[r] = map(offers[r]);
  return std::find(parts_.begin(), parts_.end(), nullptr) == parts_.end();
}

bool SharedSegment::can_read(std::span<const Offer> offers) const {
  return std::all_of(offers.begin(), offers.end(), [](const Offer& offer) {
    std::int64_t word = 0;
    const iovec here{.iov_base = &word, .iov_len = sizeof(word)};
    const iovec there{.iov_base = reinterpret_cast<void*>(offer.address), .iov_len = sizeof(word)};  // NOLINT
    return ::process_vm_readv(offer.process, &here, 1, &there, 1, 0) == sizeof(word);
  });
}

SharedSegment::~SharedSegment() {
  for (std::byte* part : parts_)
    if (part != nullptr) ::munmap(part, static_cast<std::size_t>(part_bytes));
  if (file_ >= 0) ::close(file_);
}

}  // namespace limbeck::parallel
