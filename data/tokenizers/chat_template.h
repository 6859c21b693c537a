// Conversations as the text that a chat model was trained on. A tokenizer says how in a program in Jinja; here is no
// interpreter of it but a table of the formats that models have, each known by the expressions that write its turns.
//
//     ChatTemplate chat(*tokenizer);                                       // chat.name(): "Qwen2.5"
//     ChatTokens tokens = chat.encode({{ChatRole::User, "Hi"}, {ChatRole::Assistant, "Hello"}});
//     tokens.ids;                                                          // <|im_start|>, user, ...
//     tokens.is_target;                                                    // 1: "Hello", <|im_end|>
//     std::vector<std::int32_t> prompt = chat.prompt({{ChatRole::User, "Hi"}});   // the model goes on from there
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizers/tokenizer.h"

namespace limbeck::data {

enum class ChatRole : std::uint8_t { System, User, Assistant };
inline constexpr std::string_view chat_roles[] = {"system", "user", "assistant"};

struct ChatMessage {
  ChatRole role = ChatRole::User;
  std::string content;  // valid UTF-8
  friend bool operator==(const ChatMessage&, const ChatMessage&) = default;
};

/// A conversation as text, and what of it is said by the model, with what closes each reply.
struct ChatText {
  MarkedText marked;
  std::vector<MarkedText::Part> replies;  // rising, apart
};

struct ChatTokens {
  std::vector<std::int32_t> ids;
  std::vector<std::uint8_t> is_target;  // [ids]: 1 where the model is to say the token, else 0
};

/// The names of the formats that are known.
std::vector<std::string> chat_template_names();
/// Of a tokenizer's template; nothing where it is none of them.
std::optional<std::string> chat_template_name(std::string_view jinja);

struct ChatFormat;  // a row of the table

class ChatTemplate {
 public:
  /// Refers to the tokenizer. Throws where it has no template, and for one that is not known, with the names of those
  /// that are.
  explicit ChatTemplate(const Tokenizer& tokenizer);

  std::string_view name() const;
  /// A whole conversation. Throws, naming the message by its place, for what the format refuses or would leave out.
  ChatText render(std::span<const ChatMessage> messages) const;
  /// The ids of that with one start of text in front where the format or the tokenizer has one. A token that is of a
  /// reply in part is a target, unless the message is one of the first `num_given`. Throws where there is no reply
  /// behind those.
  ChatTokens encode(std::span<const ChatMessage> messages, EncodeCounts* counts = nullptr,
                    std::size_t num_given = 0) const;
  /// A conversation that the model is to go on with, up to where its reply begins.
  std::vector<std::int32_t> prompt(std::span<const ChatMessage> messages) const;
  /// The token that closes a reply, where the vocabulary has it as one.
  std::optional<std::int32_t> end_of_reply() const;

 private:
  ChatText render(std::span<const ChatMessage> messages, bool asks) const;
  ChatTokens encode(const ChatText& text, EncodeCounts* counts) const;
  std::string with_names(std::string_view part) const;

  const Tokenizer& tokenizer_;
  const ChatFormat* format_;
  bool begins_ = false;  // the text itself begins with the start of text
  std::vector<std::int32_t> markers_;
};

}  // namespace limbeck::data
