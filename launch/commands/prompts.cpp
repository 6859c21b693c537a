#include "launch/commands/prompts.h"

#include <utility>

#include "core/error.h"
#include "data/files/file_kind.h"
#include "data/text/chat_lines.h"
#include "data/text/json_lines.h"
#include "data/text/text_source.h"
#include "data/tokenizers/unicode.h"
#include "launch/console/streams.h"

namespace limbeck::launch {

namespace {

constexpr std::string_view standard_input = "-";

/// Text from standard input, or from a file; `name` is for messages.
std::string text_of(const std::string& path, const std::string& name) {
  if (path != standard_input) return data::read_document(path);
  std::string text = read_standard_input();
  const data::FileKind kind = data::kind_of(std::string_view(text).substr(0, data::kind_bytes));
  core::check(kind.is_text || text.empty(), "{}: is {}, expected text in UTF-8", name, kind.name);
  return text;
}

/// One prompt a line, as editors on any system end it; blank lines have none.
std::vector<Prompt> lines_of(std::string_view text, const std::string& name) {
  std::vector<Prompt> prompts;
  std::int64_t number = 0;
  for (std::size_t start = 0; start < text.size();) {
    ++number;
    const std::size_t end = std::min(text.find('\n', start), text.size());
    std::string_view line = text.substr(start, end - start);
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.find_first_not_of(" \t") != std::string_view::npos)
      prompts.push_back({std::string(line), fmt::format("{}:{}", name, number)});
    start = end + 1;
  }
  return prompts;
}

std::vector<Prompt> read_texts(const GenerateOptions& options) {
  if (!options.prompts) {
    if (options.prompt != standard_input) return {{options.prompt, "--prompt"}};
    std::string prompt = text_of(options.prompt, "standard input");
    if (prompt.ends_with('\n')) prompt.pop_back();
    if (prompt.ends_with('\r')) prompt.pop_back();
    core::check(!prompt.empty(), "standard input: is empty, expected a prompt");
    return {{std::move(prompt), "standard input"}};
  }
  const std::string path = options.prompts->string();
  const bool is_standard_input = path == standard_input;
  const std::string name = is_standard_input ? "standard input" : path;
  const bool is_json = options.field || (!is_standard_input && data::is_json_lines(path, data::TextFormat::Auto));
  const data::LineBlock all{.text = text_of(path, name)};
  std::vector<Prompt> prompts;
  if (is_json && options.chat)
    data::for_each_conversation(all, data::JsonField(options.field.value_or("messages")), name,
                                [&](std::vector<data::ChatMessage>&& messages, std::int64_t line) {
                                  prompts.push_back({"", fmt::format("{}:{}", name, line), std::move(messages)});
                                });
  else if (is_json)
    data::for_each_text(all, data::JsonField(options.field.value_or("prompt")), name,
                        [&](std::string&& text, std::int64_t line) {
                          prompts.push_back({std::move(text), fmt::format("{}:{}", name, line)});
                        });
  else
    prompts = lines_of(all.text, name);
  core::check(!prompts.empty(), "{}: holds no prompts, expected {}", name,
              is_json ? "a JSON object a line" : "one a line");
  return prompts;
}

}  // namespace

std::vector<Prompt> read_prompts(const GenerateOptions& options) {
  std::vector<Prompt> prompts = read_texts(options);
  if (!options.chat) return prompts;
  for (Prompt& prompt : prompts) {
    if (prompt.messages.empty())
      prompt.messages = {{data::ChatRole::User, data::repair_utf8(std::exchange(prompt.text, "")).utf8}};
    if (!options.system) continue;
    core::check(prompt.messages[0].role != data::ChatRole::System,
                "{}: has a system message, expected none beside --system", prompt.place);
    prompt.messages.insert(prompt.messages.begin(), {data::ChatRole::System, data::repair_utf8(*options.system).utf8});
  }
  return prompts;
}

void InOrder::add(std::size_t text, std::string_view more) {
  waiting_[text] += more;
  if (text == first_) write_(std::exchange(waiting_[text], ""));
}

void InOrder::end(std::size_t text) {
  has_ended_[text] = true;
  while (first_ < has_ended_.size() && has_ended_[first_])
    if (++first_ < has_ended_.size()) write_(std::exchange(waiting_[first_], ""));
}

}  // namespace limbeck::launch
