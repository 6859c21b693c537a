#include "data/text/preference_lines.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "data/files/json_at.h"
#include "data/files/json_text.h"
#include "data/text/chat_lines.h"

namespace limbeck::data {

using nlohmann::json;

namespace {

/// `all` begins with `num_given` messages of the prompt, and goes on with a reply.
void check_response(const JsonAt& response, const std::vector<ChatMessage>& all, std::size_t num_given) {
  if (all.size() <= num_given) response.refuse("a reply behind what chosen and rejected have in common");
  if (all[num_given].role != ChatRole::Assistant) response.refuse("a message of role assistant behind the prompt");
}

std::vector<ChatMessage> joined(std::vector<ChatMessage> prompt, const std::vector<ChatMessage>& response) {
  prompt.insert(prompt.end(), response.begin(), response.end());
  return prompt;
}

PreferencePair pair_of_messages(const JsonAt& prompt, const JsonAt& chosen, const JsonAt& rejected) {
  PreferencePair pair{.chosen_messages = messages_of(chosen), .rejected_messages = messages_of(rejected)};
  std::vector<ChatMessage>& one = pair.chosen_messages;
  std::vector<ChatMessage>& other = pair.rejected_messages;
  if (prompt.json().is_array()) {
    const std::vector<ChatMessage> given = messages_of(prompt);
    pair.num_given = given.size();
    one = joined(given, one);
    other = joined(given, other);
  } else {
    pair.num_given =
        static_cast<std::size_t>(std::mismatch(one.begin(), one.end(), other.begin(), other.end()).first - one.begin());
    if (pair.num_given == 0) rejected.refuse("messages that begin as those of chosen do: the prompt");
    if (!prompt.is_null() && (one.front().role != ChatRole::User || one.front().content != prompt.text()))
      prompt.refuse("what the first message of chosen and rejected says, or messages");
  }
  check_response(chosen, one, pair.num_given);
  check_response(rejected, other, pair.num_given);
  return pair;
}

}  // namespace

PreferencePair pair_of(std::string_view line, const std::string& file, std::int64_t line_number) {
  const std::string where = fmt::format("{}:{}", file, line_number);
  const auto parsed = parse_json<json>(line, where);
  const JsonAt object(parsed, where);
  const JsonAt prompt = object.get("prompt"), chosen = object.at("chosen"), rejected = object.at("rejected");
  if (chosen.json().is_array()) return pair_of_messages(prompt, chosen, rejected);
  PreferencePair pair{.prompt = object.at("prompt").text(), .chosen = chosen.text(), .rejected = rejected.text()};
  if (pair.prompt.empty()) prompt.refuse("a text that is not empty");
  return pair;
}

}  // namespace limbeck::data
