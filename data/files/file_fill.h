// Values that go into a file whose structures are there: one pass from front to back, which hashes all of its bytes on
// the way, those that are there too, while the disk is at work. So a file that is larger than the memory is not read
// again, and of the page cache it takes a few dozen MiB.
//
//     FileFill fill(folder / "rank_00000.h5", stop);
//     fill.put(4096, bytes);                       // in the order of their places
//     const auto [size, hash] = fill.finish();     // on the disk
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <stop_token>
#include <utility>

#include "data/files/random_access_file.h"
#include "data/files/xxh3.h"

namespace limbeck::data {

class FileFill {
 public:
  /// Throws, naming the file and the system's reason, where it cannot be opened; as all that follows.
  FileFill(const std::filesystem::path& path, std::stop_token stop);
  ~FileFill();
  FileFill(const FileFill&) = delete;
  FileFill& operator=(const FileFill&) = delete;

  /// Writes them from byte `first` on, which lies behind all that was put before. Throws when it is asked to stop.
  void put(std::int64_t first, std::span<const std::byte> bytes);
  /// Waits until all of it is on the disk: the file's size, and the XXH3 of its bytes.
  std::pair<std::int64_t, std::uint64_t> finish();

 private:
  void pass_to(std::int64_t end);
  void write_all(std::span<const std::byte> bytes);
  void start_window();
  void sync_range(std::int64_t begin, std::int64_t end, unsigned flags);

  std::filesystem::path path_;
  std::stop_token stop_;
  RandomAccessFile file_;  // to read
  int descriptor_;         // to write
  Xxh3 hash_;
  std::int64_t at_ = 0;      // all before it is hashed
  std::int64_t begun_ = 0;   // all before it is on the way to the disk
  std::int64_t synced_ = 0;  // and before this, there
};

}  // namespace limbeck::data
