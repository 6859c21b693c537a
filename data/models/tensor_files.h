// Files of tensors, one behind the other, written front to back, so that no more than what is being written is held in
// memory and an interruption costs the tensor at hand alone. A journal beside them has a hash of each tensor that is
// whole: whoever goes on reads what is there, and takes it from the first tensor that is not what the journal says.
//
//     TensorFiles files({{"out.gguf.tmp", head, {{4096}, {64, 32}}}}, "out.gguf.journal", source, say);
//     while (files.next() < files.num_tensors()) files.write(bytes_of_tensor(files.next()));
//     files.close();                                              // on the disk
//     files.forget();                                             // the journal goes
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "data/files/journal_file.h"
#include "data/files/output_file.h"

namespace limbeck::data {

class TensorFiles {
 public:
  struct Tensor {
    std::int64_t bytes = 0;    // above 0
    std::int64_t padding = 0;  // zeros behind them
  };
  struct File {
    std::filesystem::path path;
    std::string head;
    std::vector<Tensor> tensors;
  };
  using Notice = std::function<void(const std::string&)>;  // gets a line for people; may be empty

  /// Goes on with files that were begun with the same heads and tensors and under the same `identity`, which stands for
  /// what else their bytes depend on; else begins. Throws where another process writes them.
  TensorFiles(std::vector<File> files, const std::filesystem::path& journal, const std::string& identity,
              Notice notice);
  ~TensorFiles();
  TensorFiles(const TensorFiles&) = delete;
  TensorFiles& operator=(const TensorFiles&) = delete;

  std::int64_t num_tensors() const { return std::ssize(places_); }
  /// The tensor, counted through all files, whose bytes are to be written next.
  std::int64_t next() const { return next_; }
  std::int64_t bytes_of(std::int64_t tensor) const { return at(tensor).bytes; }
  /// The next bytes of that tensor, none beyond it.
  void write(std::span<const std::byte> bytes);
  /// Waits until the files are on the disk. Throws where tensors are missing.
  void close();
  /// Removes the journal: nobody will go on.
  void forget() { journal_.remove(); }
  /// Removes the files and the journal.
  void discard();

 private:
  struct Place {
    std::size_t file, tensor;
    std::int64_t offset;  // of its first byte in the file
  };
  struct Hash;

  const Tensor& at(std::int64_t tensor) const {
    const Place& place = places_[static_cast<std::size_t>(tensor)];
    return files_[place.file].tensors[place.tensor];
  }
  std::string head_line(const std::string& identity) const;
  void resume(const std::string& identity, const Notice& notice);
  bool holds(std::int64_t tensor, std::uint64_t hash) const;
  void open_next();
  void end_tensor();

  std::vector<File> files_;
  std::vector<Place> places_;
  JournalFile journal_;
  std::int64_t next_ = 0;
  std::int64_t written_ = 0;          // of that tensor
  std::optional<OutputFile> output_;  // of the file of that tensor, once there are bytes of it
  std::unique_ptr<Hash> hash_;        // of that tensor's bytes
};

}  // namespace limbeck::data
