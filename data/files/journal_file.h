// A file of lines that tells, after a kill, how far a piece of work was: open in one process at a time.
//
//     JournalFile journal("tokens/web.journal", [](const std::string& busy) { core::fail("{}", busy); });
//     if (!journal.text().starts_with(head)) journal.begin(head);
//     journal.append("17 00f3\n", JournalFile::Sync::Yes);
//     journal.remove();                                           // the work is done
#pragma once

#include <cstdint>
#include <functional>
#include <string>

namespace limbeck::data {

class JournalFile {
 public:
  enum class Sync : std::uint8_t { No, Yes };  // whether it is on the disk when it returns

  /// Makes or opens the file. Where another process has it open, `on_busy` is called, and then that is waited for.
  /// Throws where the file cannot be opened.
  JournalFile(std::string path, const std::function<void()>& on_busy);
  ~JournalFile();
  JournalFile(const JournalFile&) = delete;
  JournalFile& operator=(const JournalFile&) = delete;

  const std::string& path() const { return path_; }
  /// All of it.
  std::string text() const;
  /// Only its first `bytes` stay.
  void keep(std::size_t bytes);
  /// Only `line` stays.
  void begin(const std::string& line);
  void append(const std::string& line, Sync sync);
  void remove();

 private:
  std::string path_;
  int descriptor_ = -1;
};

}  // namespace limbeck::data
