// Preferences as JSON lines: one object a line, a prompt with two responses of which one is preferred, as text or as
// messages, in the formats of TRL.
//
//     {"prompt": "The sky is", "chosen": " blue.", "rejected": " green."}
//     {"prompt": [{"role": "user", "content": "Hi"}], "chosen": [{"role": "assistant", "content": "Hello"}],
//     "rejected": ...}
//     {"chosen": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}], "rejected": ...}
//
//     PreferencePair pair = pair_of(line, "pairs.jsonl", 1);
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizers/chat_template.h"

namespace limbeck::data {

struct PreferencePair {
  std::string prompt = {}, chosen = {}, rejected = {};  // of text
  // Of messages: whole conversations, whose first num_given are the same, the prompt.
  std::vector<ChatMessage> chosen_messages = {}, rejected_messages = {};
  std::size_t num_given = 0;

  bool is_chat() const { return num_given > 0; }
};

/// The preference of a line. Without a prompt it is the messages that both conversations begin with; one that is a text
/// beside conversations has to be what both begin with. Throws, naming `file`, the line's number and the place in it,
/// for what is none of the formats, an empty prompt, and responses that do not begin with a reply.
PreferencePair pair_of(std::string_view line, const std::string& file, std::int64_t line_number);

}  // namespace limbeck::data
