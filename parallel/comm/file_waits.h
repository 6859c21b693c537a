// That a rank waits for a disk, said while it does: a disk that is slow is no hang (docs/parallelism.md, "A slow
// disk"). The thread that the other ranks wait for says it around what may take long; other threads ask.
//
//     FileWaits& waits = world.engine().file_waits();
//     {
//       const FileWait scope(&waits, [&] { return "reads " + file.path(); });
//       read(file);
//     }
#pragma once

#include <chrono>
#include <functional>
#include <mutex>
#include <string>
#include <vector>

namespace limbeck::parallel {

class FileWait;

/// Of a rank.
class FileWaits {
 public:
  /// "reads data/train.bin", of the scope that began last; "" while there is none.
  std::string now() const;
  /// Whether that one has lasted for so long and this was not answered yes before: for whoever tells the user, once.
  bool becomes_long(std::chrono::steady_clock::duration lasting);

 private:
  friend class FileWait;
  mutable std::mutex mutex_;
  std::vector<FileWait*> scopes_;
};

/// While it lives, the rank may wait for a disk. An exchange that it waits in meanwhile is a wait like any other.
class FileWait {
 public:
  /// `words` are made when somebody asks, by another thread. Null: nobody does.
  FileWait(FileWaits* waits, std::function<std::string()> words);
  ~FileWait();
  FileWait(const FileWait&) = delete;
  FileWait& operator=(const FileWait&) = delete;

 private:
  friend class FileWaits;
  FileWaits* waits_;
  std::function<std::string()> words_;
  std::chrono::steady_clock::time_point since_ = std::chrono::steady_clock::now();
  bool is_told_ = false;  // guarded by the mutex of `waits_`
};

}  // namespace limbeck::parallel
