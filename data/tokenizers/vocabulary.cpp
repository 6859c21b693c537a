#include "data/tokenizers/vocabulary.h"

#include <fmt/format.h>

#include <algorithm>
#include <unordered_map>

#include "core/random.h"
#include "data/tokenizers/unicode.h"

namespace limbeck::data {

namespace {

/// The name by which a token is compared; empty: there is none.
std::string name_of(const Tokenizer& tokenizer, std::int64_t id) {
  constexpr std::string_view space = "\xe2\x96\x81";
  if (id >= tokenizer.vocabulary_size()) return "";
  const std::string_view name = tokenizer.name_of(static_cast<std::int32_t>(id));
  if (fills_up(name, id)) return "";
  std::string with_spaces;
  for (std::size_t at = 0; at < name.size();) {
    const bool is_space = name.substr(at).starts_with(space);
    with_spaces += is_space ? ' ' : name[at];
    at += is_space ? space.size() : 1;
  }
  return with_spaces;
}

/// For a message.
std::string shown(const std::string& name) {
  constexpr std::size_t longest = 40;
  if (name.empty()) return "nothing";
  std::string text = repair_utf8(std::string_view(name).substr(0, longest)).utf8;
  for (char& c : text)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
  return fmt::format("\"{}\"{}", text, name.size() > longest ? "..." : "");
}

}  // namespace

bool fills_up(std::string_view name, std::int64_t id) {
  return name.starts_with("[PAD") && name == fmt::format("[PAD{}]", id);
}

std::int64_t named_size(const Tokenizer& tokenizer) {
  std::int64_t size = tokenizer.vocabulary_size();
  while (size > 0 && name_of(tokenizer, size - 1).empty()) --size;
  return size;
}

std::uint64_t vocabulary_fingerprint(const Tokenizer& tokenizer, std::int64_t size) {
  std::uint64_t h = core::hash_name("limbeck vocabulary 1");
  for (std::int64_t id = 0; id < size; ++id)
    if (const std::string name = name_of(tokenizer, id); !name.empty())
      h = core::hash_name(fmt::format("{} {}\n", id, name), h);
  return h;
}

std::optional<std::string> vocabulary_difference(const Tokenizer& text, const Tokenizer& model) {
  std::int64_t num_others = 0;
  std::string first;
  const std::int64_t size = named_size(text);
  for (std::int64_t id = 0; id < size; ++id) {
    const std::string ours = name_of(text, id);
    const std::string theirs = name_of(model, id);
    if (ours.empty() || ours == theirs) continue;
    if (num_others++ == 0)
      first = fmt::format("token {} is {} in the one and {} in the other", id, shown(ours), shown(theirs));
  }
  if (num_others == 0) return std::nullopt;
  return fmt::format("{}; {} of {} differ", first, num_others, size);
}

std::optional<std::string> cutting_difference(const Tokenizer& text, const Tokenizer& model) {
  const Cutting ours = text.cutting(), theirs = model.cutting();
  if (ours.rules != theirs.rules) return "the rules differ by which they cut a text into words";
  const auto [one, other] = std::ranges::mismatch(ours.parts, theirs.parts);
  if (one == ours.parts.end() && other == theirs.parts.end()) return std::nullopt;
  const auto part = [](const auto& at, const std::vector<std::string>& parts) {
    return at == parts.end() ? shown("") : shown(*at);
  };
  return fmt::format("the first that differs of how they cut words is {} in the one and {} in the other",
                     part(one, ours.parts), part(other, theirs.parts));
}

VocabularyMatch match_vocabularies(const Tokenizer& text, const Tokenizer& model, std::int64_t model_size) {
  const std::int64_t known = std::min(model_size, model.vocabulary_size());
  std::unordered_map<std::string, std::int64_t> id_of;
  for (std::int64_t id = 0; id < known; ++id)
    if (std::string name = name_of(model, id); !name.empty()) id_of.emplace(std::move(name), id);
  VocabularyMatch match;
  for (std::int64_t id = 0; id < text.vocabulary_size(); ++id) {
    const std::string name = name_of(text, id);
    const auto found = name.empty() ? id_of.end() : id_of.find(name);
    match.ids.push_back(found == id_of.end() ? -1 : found->second);
    if (found != id_of.end() && found->second != id) ++match.num_moved;
    if (found != id_of.end() || name.empty()) continue;
    const std::vector<std::int32_t> cut = model.encode(name);
    std::vector<std::int64_t>& pieces = match.pieces[id];
    std::ranges::copy_if(cut, std::back_inserter(pieces), [&](std::int32_t piece) { return piece < known; });
  }
  return match;
}

std::string shown_token(const Tokenizer& tokenizer, std::int64_t id) { return shown(name_of(tokenizer, id)); }

}  // namespace limbeck::data
