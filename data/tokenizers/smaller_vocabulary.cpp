#include "data/tokenizers/smaller_vocabulary.h"

#include <algorithm>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "core/error.h"

namespace limbeck::data {
namespace {

/// "left right", as BpeDescription::merges has them.
struct Merge {
  std::string_view left, right;
  std::int32_t made = 0;
};

bool is_one_character(std::string_view token) {
  return std::ranges::count_if(token, [](char c) { return (static_cast<unsigned char>(c) & 0xc0U) != 0x80U; }) == 1;
}

bool stands_for_byte(std::string_view token, bool byte_fallback) {
  return byte_fallback ? token.size() == 6 && token.starts_with("<0x") && token.ends_with('>')
                       : is_one_character(token);
}

}  // namespace

SmallerVocabulary smaller_vocabulary(const BpeDescription& whole, std::span<const std::int64_t> counts,
                                     std::int64_t least) {
  core::check(counts.size() >= whole.tokens.size(), "smaller vocabulary: {} counts, expected one of each of {} tokens",
              counts.size(), whole.tokens.size());
  std::vector<bool> stays(whole.tokens.size(), false);
  const auto keep = [&](const std::optional<std::int32_t>& id) {
    if (id) stays[static_cast<std::size_t>(*id)] = true;
  };
  std::unordered_map<std::string_view, std::int32_t> id_of;
  for (std::size_t id = 0; id < whole.tokens.size(); ++id) {
    const std::string& token = whole.tokens[id];
    if (token.empty()) continue;
    id_of.emplace(token, static_cast<std::int32_t>(id));
    stays[id] = counts[id] >= least || stands_for_byte(token, whole.byte_fallback);
  }
  for (const AddedToken& added : whole.added) keep(added.id);
  for (const std::int32_t end : whole.other_ends) keep(end);
  for (const auto& id : {whole.unk, std::optional(whole.eos), whole.bos, whole.start_of_text, whole.end_of_text})
    keep(id);

  // A merge's parts are made by merges before it, so from the last to the first each is seen after what needs it.
  std::vector<Merge> merges;
  for (const std::string_view merge : whole.merges) {
    const std::size_t space = merge.find(' ');
    const std::string_view left = merge.substr(0, space), right = merge.substr(space + 1);
    const auto made = id_of.find(std::string(left) + std::string(right));
    merges.push_back({left, right, made == id_of.end() ? -1 : made->second});
  }
  const auto is_made = [&](const Merge& merge) {
    return merge.made >= 0 && stays[static_cast<std::size_t>(merge.made)];
  };
  for (bool grows = true; grows;) {
    grows = false;
    for (const Merge& merge : merges) {
      if (!is_made(merge)) continue;
      for (const std::string_view part : {merge.left, merge.right}) {
        const auto found = id_of.find(part);
        if (found == id_of.end() || stays[static_cast<std::size_t>(found->second)]) continue;
        stays[static_cast<std::size_t>(found->second)] = grows = true;
      }
    }
  }

  SmallerVocabulary smaller{.description = whole};
  std::vector<std::int32_t> ours(whole.tokens.size(), -1);
  smaller.description.tokens.clear();
  for (std::size_t id = 0; id < whole.tokens.size(); ++id) {
    if (!stays[id]) continue;
    ours[id] = static_cast<std::int32_t>(smaller.ids.size());
    smaller.ids.push_back(static_cast<std::int64_t>(id));
    smaller.description.tokens.push_back(whole.tokens[id]);
  }
  smaller.description.merges.clear();
  for (std::size_t i = 0; i < merges.size(); ++i)
    if (is_made(merges[i])) smaller.description.merges.push_back(whole.merges[i]);
  const auto renumber = [&](std::int32_t& id) { id = ours[static_cast<std::size_t>(id)]; };
  const auto renumber_if = [&](std::optional<std::int32_t>& id) {
    if (id) renumber(*id);
  };
  BpeDescription& d = smaller.description;
  for (AddedToken& added : d.added) renumber(added.id);
  for (std::int32_t& end : d.other_ends) renumber(end);
  renumber(d.eos);
  for (auto* id : {&d.unk, &d.bos, &d.start_of_text, &d.end_of_text}) renumber_if(*id);
  return smaller;
}

}  // namespace limbeck::data
