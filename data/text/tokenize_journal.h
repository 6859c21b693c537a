// How far a tokenizing is, on the disk, so that one that was killed goes on: PREFIX.journal, lines of JSON of which
// each says what is done, which files were begun since the line before, and the hashes of the tokens so far and of
// itself. It also keeps a second process off the same
// PREFIX.
//
//     TokenizeJournal journal(prefix, notice);                    // waits for another process
//     TokenizeState state = journal.resume(identity, files, vocabulary);
//     ... writer.flush(); journal.append(state, files, writer.digest());   // now and then
//     writer.finish(); journal.remove();
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "data/files/journal_file.h"
#include "data/text/json_lines.h"
#include "data/text/token_file.h"
#include "data/tokenizers/tokenizer.h"

namespace limbeck::data {

struct TokenizeCounts {
  std::int64_t documents = 0;  // empty ones are none
  std::int64_t bytes = 0;      // of text, unpacked
  std::int64_t tokens = 0;     // ends of text included
  EncodeCounts encode;
};

/// A file as it was found.
struct InputFile {
  std::string path;
  std::int64_t bytes = 0;
  std::int64_t time = 0;  // of its last change, in the file system's ticks
  friend bool operator==(const InputFile&, const InputFile&) = default;
};
/// Throws, naming the path, where there is no file.
InputFile describe_input(const std::string& path);

struct TokenizeState {
  std::int64_t files_done = 0;
  LinePlace place;        // in the file after those
  TokenizeCounts counts;  // of everything before
};

class TokenizeJournal {
 public:
  using Notice = std::function<void(const std::string&)>;  // gets a line for people; may be empty

  /// Makes or opens PREFIX.journal and waits until no other process has it open. Throws where that cannot be.
  TokenizeJournal(const std::string& prefix, Notice notice);

  /// The last state that still holds: made under the same `identity`, with all files begun until then as they were, and
  /// with its tokens, undamaged, in the partial token file. What comes after it is dropped, and said with its reason: a
  /// file that has changed by its name. `identity` stands for what else the result depends on.
  TokenizeState resume(const std::string& identity, const std::vector<InputFile>& files, std::int64_t vocabulary_size,
                       bool has_mask = false);

  /// On the disk when it returns. `files` as before; `digest` is the writer's.
  void append(const TokenizeState& state, const std::vector<InputFile>& files, std::uint64_t digest);
  void remove();

 private:
  void begin_anew(const std::string& identity);
  void say(const std::string& line) const;

  std::string prefix_;
  Notice notice_;
  JournalFile file_;
  std::int64_t num_begun_ = 0;  // files that the lines name
};

}  // namespace limbeck::data
