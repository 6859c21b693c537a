// The prompts that `limbeck generate` is given, and what it says of them.
//
//     const std::vector<Prompt> prompts = read_prompts(options);      // {"The still", "prompts.txt:1"}
//     InOrder out(prompts.size(), write);
//     out.add(1, "second");  out.end(1);             // waits for the first
//     out.add(0, "first");   out.end(0);             // both are written
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizers/chat_template.h"
#include "launch/commands/command_line.h"

namespace limbeck::launch {

struct Prompt {
  std::string text;
  std::string place;                             // where it was given, for messages: "prompts.txt:3", "--prompt"
  std::vector<data::ChatMessage> messages = {};  // with --chat, instead of the text
};

/// --prompt itself, or standard input without the line end that it ends in; of --prompts each line that is not blank,
/// or its field. A file may be packed (gzip, zstd). With --chat each is a conversation: that of the field, or the
/// user's text, behind --system. Throws, naming file and line; also where there is no prompt.
std::vector<Prompt> read_prompts(const GenerateOptions& options);

/// Texts that grow together, written one after the other: the first that has not ended as it grows, those behind it
/// when it has.
class InOrder {
 public:
  InOrder(std::size_t num_texts, std::function<void(const std::string&)> write)
      : write_(std::move(write)), waiting_(num_texts), has_ended_(num_texts, false) {}
  void add(std::size_t text, std::string_view more);
  void end(std::size_t text);

 private:
  std::function<void(const std::string&)> write_;
  std::vector<std::string> waiting_;  // of texts behind the first
  std::vector<bool> has_ended_;
  std::size_t first_ = 0;  // that has not ended
};

}  // namespace limbeck::launch
