// A file mapped for reading. The mapping lives as long as the object; whoever hands out views of it keeps it alive.
//
//     MappedFile file("model.gguf");
//     std::span<const std::byte> bytes = file.bytes();
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

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
  /// The same as characters.
  std::string_view text() const { return {reinterpret_cast<const char*>(data_), size_}; }

 private:
  std::string path_;
  const std::byte* data_ = nullptr;  // null for an empty file
  std::size_t size_ = 0;
};

/// Gives pages of a mapped file back to the system, which reads them again where they are wanted again: a process that
/// goes over a large file once stays small. Nothing where the bytes are of no mapped file.
void release_mapped(std::span<const std::byte> bytes);

/// Asks the system to read pages of a mapped file from the disk, without waiting for it.
void fetch_mapped(std::span<const std::byte> bytes);

/// The path of the file that is mapped at an address, null if none is: for the handler of SIGBUS, which the system
/// raises where a mapped file has been shortened or its disk fails. May be called from a signal handler.
const char* mapped_file_at(const void* address);

}  // namespace limbeck::data
