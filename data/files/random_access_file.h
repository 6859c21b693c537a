// A file read at any place, each range whole or not at all.
//
//     RandomAccessFile file(folder / "rank_00000.h5");
//     file.read(65536, bytes);
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>

namespace limbeck::data {

class RandomAccessFile {
 public:
  /// Throws, naming the path and the system's reason, where it cannot be opened.
  explicit RandomAccessFile(std::filesystem::path path);
  ~RandomAccessFile();
  RandomAccessFile(const RandomAccessFile&) = delete;
  RandomAccessFile& operator=(const RandomAccessFile&) = delete;

  /// Fills `to` from byte `first` on; throws where the file ends before or cannot be read.
  void read(std::int64_t first, std::span<std::byte> to) const;

 private:
  std::filesystem::path path_;
  int descriptor_;
};

}  // namespace limbeck::data
