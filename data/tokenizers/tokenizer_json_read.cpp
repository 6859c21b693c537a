#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <unordered_map>

#include "data/files/atomic_file.h"
#include "data/files/json_at.h"
#include "data/files/json_text.h"
#include "data/tokenizers/answer_ends.h"
#include "data/tokenizers/chat_formats.h"
#include "data/tokenizers/tokenizer_folder.h"
#include "data/tokenizers/tokenizer_json.h"
#include "data/tokenizers/unicode.h"

namespace limbeck::data {

using core::check;
using core::fail;
using nlohmann::json;

namespace {

constexpr std::uintmax_t max_file_bytes = std::uintmax_t{1} << 27U;
constexpr std::size_t max_steps = 64;  // of a normalizer or pre-tokenizer; files have up to ten

/// What `component` is of, one of `known`.
std::string type_of(const JsonAt& component, std::string_view known) {
  const JsonAt type = component.at("type");
  const bool is_word = type.text().find(' ') == std::string::npos;
  if (!is_word || fmt::format(" {} ", known).find(fmt::format(" {} ", type.text())) == std::string::npos)
    type.refuse(fmt::format("one of {}", known));
  return type.text();
}

/// Calls `use` with the component, or with each within it where it is a Sequence.
template <class Use>
void for_each_component(const JsonAt& component, const char* members, const Use& use) {
  if (component.is_null()) return;
  if (component.at("type").text() != "Sequence") return use(component);
  const JsonAt list = component.at(members).array();
  for (std::size_t i = 0; i < list.size(); ++i) for_each_component(list.at(i), members, use);
}

/// {"String": text} or {"Regex": pattern}, as a pattern.
std::string pattern_of(const JsonAt& pattern) {
  if (const JsonAt text = pattern.get("String"); !text.is_null()) {
    if (text.text().empty()) text.refuse("a text that is not empty");
    return literal_pattern(text.text());
  }
  const JsonAt regex = pattern.get("Regex");
  if (regex.is_null()) pattern.refuse("a String or a Regex");
  if (regex.text().empty()) regex.refuse("a pattern that is not empty");
  const Regex compiled(regex.text(), regex.where());  // errors name the place
  return regex.text();
}

std::vector<NormalizerStep> read_normalizer(const JsonAt& normalizer) {
  using Kind = NormalizerStep::Kind;
  std::vector<NormalizerStep> steps;
  for_each_component(normalizer, "normalizers", [&](const JsonAt& step) {
    check(steps.size() < max_steps, "{}: comes after {} others, expected at most {}", step.where(), max_steps,
          max_steps);
    const std::string type = type_of(step, "NFC NFD NFKC NFKD Prepend Replace Sequence");
    if (type == "Prepend")
      steps.push_back({.kind = Kind::Prepend, .content = step.at("prepend").text()});
    else if (type == "Replace")
      steps.push_back(
          {.kind = Kind::Replace, .pattern = pattern_of(step.at("pattern")), .content = step.at("content").text()});
    else
      steps.push_back({.kind = Kind::Form,
                       .form = type == "NFC"    ? UnicodeForm::Nfc
                               : type == "NFD"  ? UnicodeForm::Nfd
                               : type == "NFKC" ? UnicodeForm::Nfkc
                                                : UnicodeForm::Nfkd});
  });
  return steps;
}

SplitBehavior behavior_of(const JsonAt& behavior) {
  constexpr std::array names = {"Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"};
  const auto found = std::find(names.begin(), names.end(), behavior.text());
  if (found == names.end()) behavior.refuse(fmt::format("one of {}", fmt::join(names, " ")));
  return static_cast<SplitBehavior>(found - names.begin());
}

/// Spaces as a character of their own, and one in front.
void read_metaspace(const JsonAt& metaspace, std::vector<PretokenizerStage>& stages) {
  const std::string& space = metaspace.at("replacement").text();
  if (space.empty() || code_points(space).size() != 1) metaspace.at("replacement").refuse("one character");
  const bool adds = metaspace.flag("add_prefix_space", true);
  const JsonAt scheme = metaspace.get("prepend_scheme");  // absent in older files
  const std::string when = scheme.is_null() ? (adds ? "always" : "never") : scheme.text();
  if (when != "always" && when != "first" && when != "never") scheme.refuse("always, first or never");
  stages.push_back({.space = space, .prefix = when == "never" ? "" : space, .only_first = when == "first"});
  if (metaspace.flag("split", true))
    stages.push_back({.pattern = literal_pattern(space), .behavior = SplitBehavior::MergedWithNext});
}

/// Of a byte-level BPE, which ends in ByteLevel, or of one with byte_fallback, which has none.
std::vector<PretokenizerStage> read_pretokenizer(const JsonAt& pretokenizer, bool byte_fallback) {
  std::vector<PretokenizerStage> stages;
  bool has_bytes = false;
  for_each_component(pretokenizer, "pretokenizers", [&](const JsonAt& stage) {
    const std::string type =
        type_of(stage, byte_fallback ? "Metaspace Split Digits Sequence" : "ByteLevel Split Digits Sequence");
    check(!has_bytes, "{}: comes after ByteLevel, expected ByteLevel last", stage.where());
    check(stages.size() < max_steps, "{}: comes after {} others, expected at most {}", stage.where(), max_steps,
          max_steps);
    if (type == "Split") {
      stages.push_back({.pattern = pattern_of(stage.at("pattern")),
                        .behavior = behavior_of(stage.at("behavior")),
                        .invert = stage.flag("invert", false)});
    } else if (type == "Digits") {
      const bool each = stage.flag("individual_digits", false);
      stages.push_back({.pattern = fmt::format("{}{}", digit_pattern, each ? "" : "+")});
    } else if (type == "Metaspace") {
      read_metaspace(stage, stages);
    } else {
      has_bytes = true;
      if (stage.flag("add_prefix_space", true)) stages.push_back({.prefix = " "});
      if (stage.flag("use_regex", true)) stages.push_back({.pattern = std::string(gpt2_pattern)});
    }
  });
  check(has_bytes || byte_fallback, "{}: has no ByteLevel, expected a byte-level BPE", pretokenizer.where());
  return stages;
}

/// Replace, ByteFallback, Fuse, Strip, in this order.
BpeDecoder read_decoder(const JsonAt& decoder) {
  constexpr std::array order = {"Replace", "ByteFallback", "Fuse", "Strip"};
  BpeDecoder result;
  std::size_t reached = 0;
  bool has_bytes = false;
  bool is_fused = false;
  for_each_component(decoder, "decoders", [&](const JsonAt& step) {
    const std::string type = type_of(step, fmt::format("{} Sequence", fmt::join(order, " ")));
    const auto place = static_cast<std::size_t>(std::find(order.begin(), order.end(), type) - order.begin());
    check(place >= reached, "{}: comes after {}, expected the order {}", step.where(), order[reached],
          fmt::join(order, ", "));
    check(result.replaced.size() < max_steps, "{}: comes after {} others, expected at most {}", step.where(), max_steps,
          max_steps);
    reached = place;
    has_bytes |= type == "ByteFallback";
    is_fused |= type == "Fuse";
    if (type == "Replace") {
      const JsonAt from = step.at("pattern").at("String");
      if (from.text().empty()) from.refuse("a text that is not empty");
      result.replaced.emplace_back(from.text(), step.at("content").text());
    } else if (type == "Strip") {
      const JsonAt content = step.at("content");
      if (code_points(content.text()).size() != 1) content.refuse("one character");
      if (result.most_stripped > 0) step.refuse("one Strip");
      if (step.at("stop").index(std::uint64_t{1} << 31U) != 0) step.at("stop").refuse("0");
      result.stripped = content.text();
      result.most_stripped = step.at("start").index(std::uint64_t{1} << 31U);
    }
  });
  check(has_bytes, "{}: has no ByteFallback, expected it as model.byte_fallback is true", decoder.where());
  check(result.most_stripped == 0 || is_fused, "{}: has no Fuse before Strip", decoder.where());
  return result;
}

void check_decoder(const JsonAt& decoder) {
  bool has_bytes = false;
  for_each_component(decoder, "decoders",
                     [&](const JsonAt& d) { has_bytes |= type_of(d, "ByteLevel Fuse Sequence") == "ByteLevel"; });
  check(has_bytes, "{}: has no ByteLevel, expected a byte-level BPE", decoder.where());
}

/// The ids before and after the text in "single" of a TemplateProcessing: at most one on each side.
void read_template(const JsonAt& post_processor, BpeDescription& d) {
  for_each_component(post_processor, "processors", [&](const JsonAt& processor) {
    if (type_of(processor, "ByteLevel TemplateProcessing Sequence") == "ByteLevel") return;
    const JsonAt single = processor.at("single").array();
    bool is_after = false;
    for (std::size_t i = 0; i < single.size(); ++i) {
      const JsonAt token = single.at(i).get("SpecialToken");
      if (token.is_null()) {
        const JsonAt id = single.at(i).at("Sequence").at("id");
        if (id.text() != "A" || is_after) id.refuse("A, once");
        is_after = true;
        continue;
      }
      const JsonAt ids = processor.at("special_tokens").at(token.at("id").text()).at("ids").array();
      for (std::size_t k = 0; k < ids.size(); ++k) {
        auto& place = is_after ? d.end_of_text : d.start_of_text;
        check(!place, "{}: puts several tokens on one side of a text, expected at most one", single.where());
        place = static_cast<std::int32_t>(ids.at(k).index(d.tokens.size()));
      }
    }
    check(is_after, "{}: has no Sequence", single.where());
  });
}

/// Puts a token to its id; `limit` bounds ids by the size of the file.
void place_token(BpeDescription& d, const std::string& token, std::int64_t id, const std::string& where) {
  const auto at = static_cast<std::size_t>(id);
  if (at >= d.tokens.size()) d.tokens.resize(at + 1);
  check(d.tokens[at].empty(), "{} is {}, which {} has too", where, id, d.tokens[at]);
  d.tokens[at] = token;
}

void read_vocabulary(const JsonAt& vocabulary, std::uint64_t limit, BpeDescription& d) {
  vocabulary.object();
  d.tokens.reserve(vocabulary.size());
  for (const auto& [token, id] : vocabulary.json().items()) {
    if (!id.is_number_unsigned() || id.get<std::uint64_t>() >= limit || token.empty()) {
      check(!token.empty(), "{}: has an empty token", vocabulary.where());
      vocabulary.at(token).index(limit);  // says what is wrong
    }
    place_token(d, token, id.get<std::int64_t>(), fmt::format("{}.{}", vocabulary.where(), token));
  }
  check(!d.tokens.empty(), "{}: is empty", vocabulary.where());
}

void read_merges(const JsonAt& merges, BpeDescription& d) {
  merges.array();
  d.merges.reserve(merges.size());
  for (std::size_t i = 0; i < merges.size(); ++i) {
    const json& merge = merges.json()[i];
    if (merge.is_string()) {
      const auto& text = merge.get_ref<const std::string&>();
      if (text.starts_with("#version")) continue;
      if (std::count(text.begin(), text.end(), ' ') != 1) merges.at(i).refuse("two tokens and a space between");
      d.merges.push_back(text);
    } else {
      if (!merge.is_array() || merge.size() != 2) merges.at(i).refuse("a pair of tokens");
      const std::string& left = merges.at(i).at(std::size_t{0}).text();
      const std::string& right = merges.at(i).at(std::size_t{1}).text();
      if ((left + right).find(' ') != std::string::npos) merges.at(i).refuse("tokens without spaces");
      d.merges.push_back(left + " " + right);
    }
  }
}

void read_model(const JsonAt& model, std::uint64_t limit, BpeDescription& d) {
  if (!model.get("type").is_null() && model.at("type").text() != "BPE") model.at("type").refuse("BPE");
  if (const JsonAt dropout = model.get("dropout"); !dropout.is_null() && dropout.json() != 0) dropout.refuse("null");
  d.byte_fallback = model.flag("byte_fallback", false);
  for (const char* name : {"continuing_subword_prefix", "end_of_word_suffix"})
    if (const JsonAt affix = model.get(name); !affix.is_null() && !affix.text().empty()) affix.refuse("null");
  read_vocabulary(model.at("vocab"), limit, d);
  read_merges(model.at("merges"), d);
  d.ignore_merges = model.flag("ignore_merges", false);
  d.fuse_unk = model.flag("fuse_unk", false);
  if (const JsonAt unk = model.get("unk_token"); !unk.is_null()) {
    const auto found = model.at("vocab").json().find(unk.text());
    if (found == model.at("vocab").json().end()) unk.refuse("a token of the vocabulary");
    d.unk = found->get<std::int32_t>();
  }
}

struct AddedEntry {
  JsonAt token;
  std::int64_t id;
  std::string where;  // of the id
};

/// The entries of tokenizer.json, and those of tokenizer_config.json that it lacks, as transformers adds them.
std::vector<AddedEntry> added_entries(const JsonAt& added, const JsonAt& decoder, std::uint64_t limit) {
  std::vector<AddedEntry> entries;
  std::unordered_map<std::int64_t, std::size_t> seen;
  for (std::size_t i = 0; i < (added.is_null() ? 0 : added.array().size()); ++i) {
    const JsonAt id = added.at(i).at("id");
    entries.push_back({added.at(i), id.index(limit), id.where()});
    const auto [first, is_new] = seen.emplace(entries.back().id, i);
    check(is_new, "{} is {}, which added_tokens[{}] has too", id.where(), entries.back().id, first->second);
  }
  if (decoder.is_null()) return entries;
  for (const auto& [key, value] : decoder.object().json().items()) {
    const JsonAt token = decoder.at(key);
    std::int64_t id = -1;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    check(error == std::errc{} && end == key.data() + key.size() && id >= 0 && id < static_cast<std::int64_t>(limit),
          "{}: its key is no token's id below {}", token.where(), limit);
    const auto first = seen.find(id);
    if (first == seen.end())
      entries.push_back({token, id, token.where()});
    else if (const JsonAt& other = entries[first->second].token;
             other.at("content").text() != token.at("content").text())
      token.at("content").refuse(fmt::format("{} as in {}", other.at("content").json().dump(), other.where()));
  }
  return entries;
}

void read_added(const std::vector<AddedEntry>& entries, const std::string& where, BpeDescription& d) {
  std::unordered_map<std::string_view, std::int32_t> ids;
  for (std::size_t id = 0; id < d.tokens.size(); ++id) ids.emplace(d.tokens[id], static_cast<std::int32_t>(id));
  std::vector<const AddedEntry*> outside;  // of the model's vocabulary
  for (const AddedEntry& entry : entries) {
    const auto& [token, id, where_id] = entry;
    const std::string& content = token.at("content").text();
    if (content.empty()) token.at("content").refuse("a text that is not empty");
    const auto known = ids.find(content);
    check(known == ids.end() || known->second == id, "{} is {}, but {} is {} in the vocabulary", where_id, id, content,
          known == ids.end() ? 0 : known->second);
    const bool in_model = known != ids.end();
    d.added.push_back({.id = static_cast<std::int32_t>(id),
                       .single_word = token.flag("single_word", false),
                       .lstrip = token.flag("lstrip", false),
                       .rstrip = token.flag("rstrip", false),
                       .normalized = token.flag("normalized", true),
                       .special = token.flag("special", false),
                       .in_model = in_model});
    if (!in_model) outside.push_back(&entry);
  }
  for (const AddedEntry* entry : outside) {
    const std::string& content = entry->token.at("content").text();
    place_token(d, content, entry->id, fmt::format("{}: the id of {}", where, content));
  }
}

/// "eos_token" and such of tokenizer_config.json: a text, or an object with "content".
std::optional<std::int32_t> token_named(const JsonAt& config, const char* key, const BpeDescription& d) {
  const JsonAt value = config.get(key);
  if (value.is_null()) return std::nullopt;
  const std::string& name = value.json().is_object() ? value.at("content").text() : value.text();
  const auto found = std::find(d.tokens.begin(), d.tokens.end(), name);
  if (found == d.tokens.end()) value.refuse("a token of the vocabulary");
  return static_cast<std::int32_t>(found - d.tokens.begin());
}

/// What ends and begins sequences and answers.
void read_ends(const JsonAt& config, const std::string& generation_config, const std::string& where,
               BpeDescription& d) {
  const auto ends = answer_ends(generation_config, fmt::format("{}: generation_config.json", where),
                                static_cast<std::int64_t>(d.tokens.size()));
  d.bos = token_named(config, "bos_token", d);
  auto eos = token_named(config, "eos_token", d);
  if (!eos && !ends.empty()) eos = ends.front();
  for (const char* usual :
       {"<|im_end|>", "<|eot_id|>", "<|endoftext|>", "<|end_of_text|>", "<｜end▁of▁sentence｜>", "</s>"}) {
    const auto found = std::find(d.tokens.begin(), d.tokens.end(), usual);
    if (!eos && found != d.tokens.end()) eos = static_cast<std::int32_t>(found - d.tokens.begin());
  }
  check(eos.has_value(), "{}: eos_token is absent, expected the token that ends a sequence", config.where());
  d.eos = *eos;
  d.other_ends = without(ends, d.eos);
}

}  // namespace

BpeDescription read_tokenizer_json(const HuggingFaceTokenizer& files, const std::string& where) {
  const json parsed = parse_json<json>(files.tokenizer_json, where);
  const JsonAt document(parsed, where);
  const std::string& config_text = files.tokenizer_config_json;
  const std::string config_where = fmt::format("{}: tokenizer_config.json", where);
  const json parsed_config = config_text.empty() ? json::object() : parse_json<json>(config_text, config_where);
  const JsonAt config(parsed_config, config_where);
  // Of ids: a token takes more bytes than that.
  const std::uint64_t limit = (files.tokenizer_json.size() + config_text.size()) / 4;
  BpeDescription d;
  read_model(document.at("model"), limit, d);
  const JsonAt added = document.get("added_tokens");
  read_added(added_entries(added, config.get("added_tokens_decoder"), limit), added.where(), d);
  d.normalizer = read_normalizer(document.get("normalizer"));
  d.pretokenizer = read_pretokenizer(document.get("pre_tokenizer"), d.byte_fallback);
  if (d.byte_fallback)
    d.decoder = read_decoder(document.get("decoder"));
  else
    check_decoder(document.get("decoder"));
  read_template(document.get("post_processor"), d);
  read_ends(config, files.generation_config_json, where, d);
  d.chat_template = chat_template_of(config.get("chat_template").json());
  return d;
}

std::shared_ptr<const Tokenizer> tokenizer_from_hugging_face(HuggingFaceTokenizer files, const std::string& where) {
  BpeDescription description = read_tokenizer_json(files, where);
  return std::make_shared<BpeTokenizer>(std::move(description), where, std::move(files));
}

std::shared_ptr<const Tokenizer> open_hugging_face_tokenizer(const std::filesystem::path& path) {
  namespace fs = std::filesystem;
  const bool is_folder = fs::is_directory(path) && path.filename() != "tokenizer.json";
  const fs::path file = is_folder ? path / "tokenizer.json" : path;
  HuggingFaceTokenizer files;
  files.tokenizer_json = read_text_file(file, max_file_bytes);
  files.tokenizer_config_json = read_tokenizer_config(file.parent_path());
  files.generation_config_json = read_generation_config(file.parent_path());
  return tokenizer_from_hugging_face(std::move(files), file.string());
}

}  // namespace limbeck::data
