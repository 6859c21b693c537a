// A file that is written front to back. Errors name it and give the system's reason; what a destructor closes is not
// checked.
//
//     OutputFile file("metrics.jsonl", /*from=*/std::filesystem::file_size("metrics.jsonl"));   // goes on at its end
//     file.write("{\"step\": 3}\n");
//     file.flush();                                  // others see it
//     file.close();
#pragma once

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

namespace limbeck::data {

class OutputFile {
 public:
  /// Opens the file, made where it is missing, with its first `from` bytes kept and all others gone.
  explicit OutputFile(const std::filesystem::path& path, std::int64_t from = 0);

  const std::string& path() const { return path_; }
  void write(const void* data, std::size_t bytes);
  void write(std::string_view text) { write(text.data(), text.size()); }
  /// Gives the system what was written.
  void flush();
  /// Brings it to the disk.
  void sync();
  /// Flushes; nothing can be written afterwards.
  void close();

 private:
  std::string path_;
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file_{nullptr, std::fclose};
};

}  // namespace limbeck::data
