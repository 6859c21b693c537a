// A file mapped for reading. The mapping lives as long as the object; whoever hands out views of it keeps it alive.
//
//     MappedFile file("model.gguf");
//     std::span<const std::byte> bytes = file.bytes();
#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace limbeck::data {

class MappedFile {
 public:
  /// Throws, naming the path and the system's reason, unless `path` is a readable regular file.
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::string& path() const { return path_; }
  std::span<const std::byte> bytes() const { return {data_, size_}; }

 private:
  std::string path_;
  const std::byte* data_ = nullptr;  // null for an empty file
  std::size_t size_ = 0;
};

}  // namespace limbeck::data
