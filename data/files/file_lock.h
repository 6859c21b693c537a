// A lock among processes, by a file of its own.
//
//     FileLock lock(folder / "run.lock");
//     if (!lock.take()) core::fail("{}: another process has locked it", ...);   // until the end of `lock`, or of the process
#pragma once

#include <filesystem>

namespace limbeck::data {

/// An open file whose lock lasts until it is closed, also by the end of the process. File systems without locks refuse
/// nobody.
class FileLock {
 public:
  enum class Kind { Alone, Shared };  // shared: with others who share it

  /// Makes the file where it is missing. Throws, naming it, where that cannot be.
  explicit FileLock(const std::filesystem::path& path);
  ~FileLock();
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;

  /// False where another has it.
  bool take(Kind kind = Kind::Alone) const;
  /// Waits for whoever has it.
  void wait() const;
  /// Whether the file still has its name.
  bool is_there() const;

 private:
  std::filesystem::path path_;
  int file_;
};

}  // namespace limbeck::data
