#include "data/tokenizers/chat_template.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <utility>

#include "core/error.h"
#include "data/tokenizers/chat_formats.h"
#include "data/tokenizers/unicode.h"

namespace limbeck::data {

using core::check;
using core::fail;

namespace {

using System = ChatFormat::System;

/// str.isspace of Python, by which Jinja trims.
bool is_space(char32_t c) {
  return (c >= 9 && c <= 13) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

std::string_view trimmed_front(std::string_view text) {
  while (!text.empty()) {
    std::size_t length = 1;
    while (length < text.size() && (static_cast<unsigned char>(text[length]) & 0xc0U) == 0x80) ++length;
    if (!is_space(code_points(text.substr(0, length))[0])) break;
    text.remove_prefix(length);
  }
  return text;
}

std::string_view trimmed_back(std::string_view text) {
  while (!text.empty()) {
    std::size_t begin = text.size() - 1;
    while (begin > 0 && (static_cast<unsigned char>(text[begin]) & 0xc0U) == 0x80) --begin;
    if (!is_space(code_points(text.substr(begin))[0])) break;
    text = text.substr(0, begin);
  }
  return text;
}

std::string_view trimmed(std::string_view text, bool trims = true) {
  return trims ? trimmed_back(trimmed_front(text)) : text;
}

std::string_view without_line_ends(std::string_view text) {
  while (text.starts_with('\n')) text.remove_prefix(1);
  while (text.ends_with('\n')) text.remove_suffix(1);
  return text;
}

std::string_view after_last(std::string_view text, std::string_view mark) {
  const std::size_t at = text.rfind(mark);
  return at == std::string_view::npos ? text : text.substr(at + mark.size());
}

constexpr std::string_view thoughts_end = "</think>";

/// A reply's thoughts and what comes after them.
struct Thoughts {
  std::string_view thoughts;
  std::string_view answer;
  /// As Qwen3's template takes them apart.
  explicit Thoughts(std::string_view content) : answer(content) {
    const std::size_t first = content.find(thoughts_end);
    if (first == std::string_view::npos) return;
    std::string_view before = content.substr(0, first);
    while (before.ends_with('\n')) before.remove_suffix(1);
    thoughts = without_line_ends(after_last(before, "<think>"));
    answer = after_last(content, thoughts_end);
    while (answer.starts_with('\n')) answer.remove_prefix(1);
  }
};

}  // namespace

std::vector<std::string> chat_template_names() {
  std::vector<std::string> names;
  for (const ChatFormat& format : chat_formats())
    if (std::find(names.begin(), names.end(), format.name) == names.end()) names.emplace_back(format.name);
  return names;
}

std::optional<std::string> chat_template_name(std::string_view jinja) {
  const ChatFormat* format = find_chat_format(jinja);
  return format == nullptr ? std::nullopt : std::optional(std::string(format->name));
}

ChatTemplate::ChatTemplate(const Tokenizer& tokenizer)
    : tokenizer_(tokenizer), format_(find_chat_format(tokenizer.chat_template())) {
  const std::string& jinja = tokenizer.chat_template();
  check(!jinja.empty(), "the tokenizer has no chat template, expected one of {}",
        fmt::join(chat_template_names(), ", "));
  if (format_ == nullptr) {
    std::string begin = squeezed_template(jinja).substr(0, 60);
    std::replace(begin.begin(), begin.end(), '\n', ' ');
    begin.resize(valid_utf8_prefix(begin));
    fail("the tokenizer's chat template is none that is known ({}...), expected one of {}", begin,
         fmt::join(chat_template_names(), ", "));
  }
  const bool begins_each = format_->user_begin.starts_with("{bos}");
  begins_ = !begins_each && (jinja.find("bos_token") != std::string::npos);
  check(!(begins_ || begins_each) || tokenizer.bos_id(),
        "the chat template ({}) begins with the begin-of-sequence token, which the tokenizer has not", name());
  MarkedText parts;
  for (const std::string_view part :
       {format_->system_begin, format_->system_end, format_->user_begin, format_->user_end, format_->reply_begin,
        format_->reply_lead, format_->reply_end, format_->reply_after, format_->last_reply_end, format_->preamble})
    parts.add(with_names(part) + " ");
  std::vector<EncodedPiece> pieces;
  const std::vector<std::int32_t> ids = tokenizer.encode_marked(parts, &pieces);
  for (const EncodedPiece& piece : pieces)  // names of white space are of any text
    if (piece.is_name && !trimmed(std::string_view(parts.text).substr(piece.begin, piece.end - piece.begin)).empty())
      markers_.push_back(ids[piece.first_id]);
}

std::string_view ChatTemplate::name() const { return format_->name; }

/// A part of a format with the names of the tokenizer's tokens.
std::string ChatTemplate::with_names(std::string_view part) const {
  std::string text(part);
  const auto put = [&](std::string_view mark, std::optional<std::int32_t> id) {
    const std::size_t at = text.find(mark);
    if (at != std::string::npos) text.replace(at, mark.size(), id ? tokenizer_.name_of(*id) : std::string_view());
  };
  put("{bos}", tokenizer_.bos_id());
  put("{eos}", tokenizer_.eos_id());
  return text;
}

std::optional<std::int32_t> ChatTemplate::end_of_reply() const {
  const std::string_view part = format_->last_reply_end.empty() ? format_->reply_end : format_->last_reply_end;
  return tokenizer_.id_of(trimmed(with_names(part)));
}

ChatText ChatTemplate::render(std::span<const ChatMessage> messages) const { return render(messages, /*asks=*/false); }

namespace {

/// Where the last message of a role is; -1: nowhere.
std::ptrdiff_t last_of(std::span<const ChatMessage> messages, ChatRole role) {
  std::ptrdiff_t at = std::ssize(messages) - 1;
  while (at >= 0 && messages[static_cast<std::size_t>(at)].role != role) --at;
  return at;
}

std::string_view name_of(ChatRole role) { return chat_roles[static_cast<std::size_t>(role)]; }

/// Throws for an order of roles that the format has not.
void check_roles(const ChatFormat& format, std::span<const ChatMessage> messages) {
  check(!messages.empty(), "messages is empty, expected at least one");
  const bool has_system = messages[0].role == ChatRole::System;
  check(!has_system || format.system != System::Refused,
        "messages[0] is of role system, which the chat template ({}) has not", format.name);
  for (std::size_t i = 1; i < messages.size(); ++i)
    check(messages[i].role != ChatRole::System || format.system == System::Turn,
          "messages[{}] is of role system, which the chat template ({}) has in front alone", i, format.name);
  if (!format.alternates) return;
  for (std::size_t i = has_system ? 1 : 0; i < messages.size(); ++i) {
    const bool is_user = (i % 2 == 0) != has_system;
    check((messages[i].role == ChatRole::User) == is_user,
          "messages[{}] is of role {}, expected {}: users and assistants take turns in the chat template ({})", i,
          name_of(messages[i].role), is_user ? "user" : "assistant", format.name);
  }
  check(!has_system || messages.size() > 1 || format.system == System::Turn,
        "messages has a system message alone, expected a user's too");
}

/// Puts words into a text; with `trims`, white space is taken off both ends of all of it together.
class Body {
 public:
  void add(std::string_view text, bool is_words) { parts_.push_back({text, is_words}); }
  void put_into(MarkedText& text, bool trims) {
    if (trims) trim();
    for (const auto& [part, is_words] : parts_) {
      if (is_words)
        text.add_words(part);
      else
        text.add(part);
    }
  }

 private:
  void trim() {
    for (auto& [part, is_words] : parts_) {
      part = trimmed_front(part);
      if (!part.empty()) break;
    }
    for (auto at = parts_.rbegin(); at != parts_.rend(); ++at) {
      at->first = trimmed_back(at->first);
      if (!at->first.empty()) break;
    }
  }
  std::vector<std::pair<std::string_view, bool>> parts_;
};

}  // namespace

ChatText ChatTemplate::render(std::span<const ChatMessage> messages, bool asks) const {
  const ChatFormat& f = *format_;
  check_roles(f, messages);
  const std::ptrdiff_t last_user = last_of(messages, ChatRole::User);
  const bool has_system = messages[0].role == ChatRole::System;
  const bool is_in_user = has_system && (f.system == System::InFirstUser || f.system == System::InLastUser);
  const std::ptrdiff_t system_user = f.system == System::InLastUser ? last_user : 1;
  check(f.system != System::InLastUser || !has_system || last_user + 1 == std::ssize(messages),
        "messages[0] is of role system, which the chat template ({}) leaves out where the last message is a reply",
        f.name);
  ChatText result;
  MarkedText& text = result.marked;
  text.markers = markers_;
  const auto add = [&](std::string_view part) { text.add(with_names(part)); };
  const auto add_system = [&](std::string_view content, bool is_first) {
    if (f.skips_empty_system && content.empty()) return;
    add(is_first || f.later_begin.empty() ? f.system_begin : f.later_begin);
    text.add_words(trimmed(content, f.trims_system));
    add(f.system_end);
  };
  const auto add_user = [&](std::string_view content, bool with_system) {
    Body body;
    const std::string begin(f.system_begin), end(f.system_end);
    if (with_system) {
      body.add(begin, false);
      body.add(messages[0].content, true);
      body.add(end, false);
    }
    body.add(trimmed(content, f.trims_user_alone), true);
    add(f.user_begin);
    body.put_into(text, f.trims_user);
    add(f.user_end);
  };
  const auto add_reply = [&](std::size_t i) {
    const std::string_view content = messages[i].content;
    const bool is_last = i + 1 == messages.size();
    check(!f.drops_thoughts || content.find(thoughts_end) == std::string_view::npos,
          "messages[{}] has thoughts, which the chat template ({}) leaves out", i, f.name);
    add(f.reply_begin);
    const std::size_t begin = text.text.size();
    add(f.reply_lead);
    if (f.thinks) {
      const Thoughts parts(content);
      if (static_cast<std::ptrdiff_t>(i) > last_user && (is_last || !parts.thoughts.empty())) {
        text.add("<think>\n");
        text.add_words(parts.thoughts);
        text.add("\n</think>\n\n");
        std::string_view answer = parts.answer;
        while (answer.starts_with('\n')) answer.remove_prefix(1);
        text.add_words(answer);
      } else {
        text.add_words(parts.answer);
      }
    } else {
      text.add_words(trimmed(content, f.trims_reply));
    }
    add(is_last && !asks && !f.last_reply_end.empty() ? f.last_reply_end : f.reply_end);
    result.replies.push_back({begin, text.text.size()});
    add(f.reply_after);
  };
  if (begins_) add("{bos}");
  add(f.preamble);
  if (!has_system && f.always_system) add_system("", true);
  if (!has_system && !f.default_system.empty()) {
    add(f.system_begin);
    add(f.default_system);
    add(f.system_end);
  }
  for (std::size_t i = is_in_user ? 1 : 0; i < messages.size(); ++i) {
    if (messages[i].role == ChatRole::System) add_system(messages[i].content, i == 0);
    if (messages[i].role == ChatRole::User)
      add_user(messages[i].content, is_in_user && static_cast<std::ptrdiff_t>(i) == system_user);
    if (messages[i].role == ChatRole::Assistant) add_reply(i);
  }
  if (asks) {
    add(f.prompt_begin.empty() ? f.reply_begin : f.prompt_begin);
  } else if (!f.text_end.empty()) {
    const std::size_t begin = text.text.size();
    add(f.text_end);
    if (messages.back().role == ChatRole::Assistant) result.replies.push_back({begin, text.text.size()});
  }
  return result;
}

namespace {

/// Where a piece of ordinary text is cut, in bytes of what its tokens stand for: as many as the tokens of the text up
/// to there do, for they are those of a normalised text.
std::size_t decoded_bytes(const Tokenizer& tokenizer, const ChatText& text, std::size_t context, std::size_t begin,
                          std::size_t end) {
  MarkedText before{.markers = text.marked.markers};
  before.text = text.marked.text.substr(context, end - context);
  for (const MarkedText::Part& word : text.marked.words) {
    const std::size_t from = std::max(word.begin, context), to = std::min(word.end, end);
    if (from < to) before.words.push_back({from - context, to - context});
  }
  std::vector<EncodedPiece> pieces;
  const std::vector<std::int32_t> ids = tokenizer.encode_marked(before, &pieces);
  std::size_t bytes = 0;
  for (std::size_t p = 0; p < pieces.size(); ++p) {
    if (pieces[p].is_name || pieces[p].begin + context < begin) continue;
    const std::size_t last = p + 1 < pieces.size() ? pieces[p + 1].first_id : ids.size();
    for (std::size_t i = pieces[p].first_id; i < last; ++i) bytes += tokenizer.decode_inside(ids[i]).size();
  }
  return bytes;
}

}  // namespace

ChatTokens ChatTemplate::encode(const ChatText& text, EncodeCounts* counts) const {
  std::vector<EncodedPiece> pieces;
  ChatTokens tokens{.ids = tokenizer_.encode_marked(text.marked, &pieces, counts), .is_target = {}};
  tokens.is_target.resize(tokens.ids.size());
  std::size_t context = 0;  // where the token before a piece begins
  for (std::size_t p = 0; p < pieces.size(); ++p) {
    const EncodedPiece& piece = pieces[p];
    const std::size_t last_id = p + 1 < pieces.size() ? pieces[p + 1].first_id : tokens.ids.size();
    auto reply = std::partition_point(text.replies.begin(), text.replies.end(),
                                      [&](const MarkedText::Part& part) { return part.end <= piece.begin; });
    for (; reply != text.replies.end() && reply->begin < piece.end; ++reply) {
      const auto cut = [&](std::size_t at) { return decoded_bytes(tokenizer_, text, context, piece.begin, at); };
      const bool begins_inside = !piece.is_name && reply->begin > piece.begin;
      const bool ends_inside = !piece.is_name && reply->end < piece.end;
      const std::size_t begin = begins_inside ? cut(reply->begin) : 0;
      const std::size_t end = ends_inside ? cut(reply->end) : std::string::npos;
      std::size_t at = 0;  // in what the tokens stand for
      for (std::size_t i = piece.first_id; i < last_id; ++i) {
        const std::size_t next =
            at + (begins_inside || ends_inside ? tokenizer_.decode_inside(tokens.ids[i]).size() : 0);
        if ((!begins_inside || next > begin) && at < end) tokens.is_target[i] = 1;
        at = next;
      }
    }
    if (piece.is_name) context = piece.begin;
  }
  const auto start = tokenizer_.start_of_text_id();
  if (start && (tokens.ids.empty() || tokens.ids.front() != *start)) {
    tokens.ids.insert(tokens.ids.begin(), *start);
    tokens.is_target.insert(tokens.is_target.begin(), 0);
  }
  return tokens;
}

ChatTokens ChatTemplate::encode(std::span<const ChatMessage> messages, EncodeCounts* counts,
                                std::size_t num_given) const {
  check(last_of(messages, ChatRole::Assistant) >= static_cast<std::ptrdiff_t>(num_given),
        "messages has no reply{}, expected at least one of role assistant",
        num_given > 0 ? fmt::format(" behind the first {}", num_given) : "");
  ChatText text = render(messages, /*asks=*/false);
  const auto given = std::ranges::count(messages.first(num_given), ChatRole::Assistant, &ChatMessage::role);
  text.replies.erase(text.replies.begin(), text.replies.begin() + given);  // of each in order one
  return encode(text, counts);
}

std::vector<std::int32_t> ChatTemplate::prompt(std::span<const ChatMessage> messages) const {
  check(messages.empty() || messages.back().role == ChatRole::User,
        "messages ends with a message of role {}, expected a user's to reply to",
        messages.empty() ? "" : name_of(messages.back().role));
  return encode(render(messages, /*asks=*/true), nullptr).ids;
}

}  // namespace limbeck::data
