// The text of a file from its beginning, without a byte order mark, unpacked where it is gzip or zstd; told apart by
// its first bytes, and by those of what was packed.
//
//     UnpackedFile file("articles.jsonl.zst");
//     std::string buffer(1 << 18, '\0');
//     while (const std::size_t got = file.read(buffer)) use(buffer.substr(0, got));
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace limbeck::data {

class UnpackedFile {
 public:
  /// Throws, naming the path, where it cannot be opened, and where its first bytes are of something that is no text in
  /// UTF-8 (file_kind.h): with what it is.
  explicit UnpackedFile(const std::string& path);
  ~UnpackedFile();

  /// The next bytes, as many as `out` has unless the end comes first; 0 at the end. Throws, naming the path and the
  /// place, where the file cannot be read or its packing is broken, cut short or needs more than 128 MiB to unpack
  /// (zstd --long above 27).
  std::size_t read(std::span<char> out);
  /// Passes over bytes; throws where a packed file ends before.
  void skip(std::int64_t bytes);
  /// Bytes of the file itself that have been read: how far it is.
  std::int64_t packed_position() const;

  class Source;  // one for each packing

 private:
  /// As many of the source's next bytes as there are, whatever was given away.
  std::size_t fill(std::span<char> out);

  std::string path_;
  std::unique_ptr<Source> source_;
  std::string head_;             // read and not yet given away
  std::int64_t mark_bytes_ = 0;  // of the byte order mark
  std::int64_t position_ = 0;    // in the text
};

}  // namespace limbeck::data
