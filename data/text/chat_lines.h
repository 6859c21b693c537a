// Conversations as JSON lines: one object a line, in one of its fields a list of messages, each {"role", "content"}.
//
//     for_each_conversation(block, JsonField("messages"), "chats.jsonl",
//                           [](std::vector<ChatMessage>&& messages, std::int64_t line) { ... });
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "data/text/json_lines.h"
#include "data/tokenizers/chat_template.h"

namespace limbeck::data {

class JsonAt;
/// The messages of a list. Throws, naming the place, for what conversation_of throws for.
std::vector<ChatMessage> messages_of(const JsonAt& list);

/// The conversation of a line. Throws, naming `file`, the line's number and the place in it, for what is no list of
/// messages with a role that is known and a content that is a string, and for what a text of them would leave out:
/// calls of tools, and thoughts in a field of their own.
std::vector<ChatMessage> conversation_of(std::string_view line, const JsonField& field, const std::string& file,
                                         std::int64_t line_number);

/// Those of a block's lines in order, with the lines' numbers from 1; blank lines have none.
void for_each_conversation(const LineBlock& block, const JsonField& field, const std::string& file,
                           const std::function<void(std::vector<ChatMessage>&& messages, std::int64_t line)>& use);

}  // namespace limbeck::data
