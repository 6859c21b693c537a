// The formats of conversations that are known: what each writes around the messages, and by what expressions a
// tokenizer's template is known for one of them.
//
//     const ChatFormat* format = find_chat_format(tokenizer.chat_template());    // null: none of them
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace limbeck::data {

/// How a format writes a conversation. In its parts {bos} and {eos} are the names of the tokenizer's tokens.
struct ChatFormat {
  enum class System : std::uint8_t {
    Turn,         // a turn like the others, anywhere
    First,        // a turn, only in front
    InFirstUser,  // in the first user's message
    InLastUser,   // in the last one, which has to be the last message too
    Refused,
  };
  std::string_view name;
  std::vector<std::string_view> has;         // each is in the squeezed template (below)
  std::vector<std::string_view> lacks = {};  // none is
  System system = System::First;
  std::string_view default_system = {};  // where there is no system message
  std::string_view system_begin = {};
  std::string_view system_end = {};
  std::string_view user_begin = {};
  std::string_view user_end = {};
  std::string_view reply_begin = {};  // what stands in front of what the model says
  std::string_view reply_lead = {};   // what it says before the answer
  std::string_view reply_end = {};    // closes a reply and is said by the model
  std::string_view reply_after = {};  // what follows and is not
  // Where they are other than those:
  std::string_view prompt_begin = {};    // reply_begin in a prompt
  std::string_view later_begin = {};     // system_begin behind the first message
  std::string_view last_reply_end = {};  // of a conversation
  std::string_view text_end = {};        // behind a last reply, said by the model
  std::string_view preamble = {};        // in front of the first message
  bool always_system = false;            // an empty system message stands for none
  bool trims_system = false;
  bool trims_user = false;        // with a system message in it
  bool trims_user_alone = false;  // before a system message is put in front
  bool trims_reply = false;
  bool skips_empty_system = false;
  bool alternates = true;       // user, assistant, user, ...
  bool thinks = false;          // Qwen3: a last reply has its thoughts in front, those before lose them
  bool drops_thoughts = false;  // what a reply has before </think>
};

/// All of them; of those that a template fits, the first counts.
const std::vector<ChatFormat>& chat_formats();
const ChatFormat* find_chat_format(std::string_view jinja);

/// The template of a conversation without tools that tokenizer_config.json says: a text, or one of a list of
/// {"name", "template"}. Empty where there is none.
std::string chat_template_of(const nlohmann::json& chat_template);

/// A template without what its authors write in different ways: no comments, no white space outside of strings, strings
/// in single quotes with their line ends as such, message.role for message['role'].
std::string squeezed_template(std::string_view jinja);

}  // namespace limbeck::data
