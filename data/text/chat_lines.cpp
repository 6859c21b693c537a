#include "data/text/chat_lines.h"

#include <algorithm>
#include <iterator>
#include <nlohmann/json.hpp>
#include <utility>

#include "data/files/json_at.h"
#include "data/files/json_text.h"

namespace limbeck::data {

using nlohmann::json;

namespace {

ChatMessage message_of(const JsonAt& message) {
  const JsonAt role = message.at("role");
  const auto* known = std::find(std::begin(chat_roles), std::end(chat_roles), role.text());
  if (known == std::end(chat_roles)) role.refuse("system, user or assistant");
  for (const char* field : {"tool_calls", "function_call", "reasoning_content", "thinking"})
    if (const JsonAt other = message.get(field); !other.is_null() && !other.json().empty())
      other.refuse("none: the text of a conversation is made of the messages' content alone");
  return {static_cast<ChatRole>(known - std::begin(chat_roles)), message.at("content").text()};
}

}  // namespace

std::vector<ChatMessage> messages_of(const JsonAt& list) {
  std::vector<ChatMessage> messages;
  for (std::size_t i = 0; i < list.array().size(); ++i) messages.push_back(message_of(list.at(i).object()));
  if (messages.empty()) list.refuse("at least one message");
  return messages;
}

std::vector<ChatMessage> conversation_of(std::string_view line, const JsonField& field, const std::string& file,
                                         std::int64_t line_number) {
  const std::string where = fmt::format("{}:{}", file, line_number);
  const auto parsed = parse_json<json>(line, where);
  const auto find = [&](const auto& self, const JsonAt& at, std::size_t depth) -> std::vector<ChatMessage> {
    return depth < field.names().size() ? self(self, at.at(field.names()[depth]), depth + 1) : messages_of(at);
  };
  return find(find, JsonAt(parsed, where), 0);
}

void for_each_conversation(const LineBlock& block, const JsonField& field, const std::string& file,
                           const std::function<void(std::vector<ChatMessage>&&, std::int64_t)>& use) {
  for_each_line(block, [&](std::string_view line, std::int64_t number) {
    use(conversation_of(line, field, file, number), number);
  });
}

}  // namespace limbeck::data
