#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <unordered_map>

#include "data/files/atomic_file.h"
#include "data/files/json_at.h"
#include "data/files/json_text.h"
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

std::vector<PretokenizerStage> read_pretokenizer(const JsonAt& pretokenizer) {
  std::vector<PretokenizerStage> stages;
  bool has_bytes = false;
  for_each_component(pretokenizer, "pretokenizers", [&](const JsonAt& stage) {
    const std::string type = type_of(stage, "ByteLevel Split Digits Sequence");
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
    } else {
      has_bytes = true;
      if (stage.flag("add_prefix_space", true)) stages.push_back({.prefix_space = true});
      if (stage.flag("use_regex", true)) stages.push_back({.pattern = std::string(gpt2_pattern)});
    }
  });
  check(has_bytes, "{}: has no ByteLevel, expected a byte-level BPE", pretokenizer.where());
  return stages;
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
      if ((left + right).find(' ') != std::string::npos) merges.at(i).refuse("tokens of the byte alphabet");
      d.merges.push_back(left + " " + right);
    }
  }
}

void read_model(const JsonAt& model, std::uint64_t limit, BpeDescription& d) {
  if (!model.get("type").is_null() && model.at("type").text() != "BPE") model.at("type").refuse("BPE");
  if (const JsonAt dropout = model.get("dropout"); !dropout.is_null() && dropout.json() != 0) dropout.refuse("null");
  if (model.flag("byte_fallback", false)) model.at("byte_fallback").refuse("false (byte-level BPE)");
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

void read_added(const JsonAt& added, std::uint64_t limit, BpeDescription& d) {
  if (added.is_null()) return;
  added.array();
  std::unordered_map<std::string_view, std::int32_t> ids;
  for (std::size_t id = 0; id < d.tokens.size(); ++id) ids.emplace(d.tokens[id], static_cast<std::int32_t>(id));
  std::unordered_map<std::int64_t, std::size_t> seen;
  std::vector<std::pair<std::string, std::int64_t>> outside;  // of the model's vocabulary
  for (std::size_t i = 0; i < added.size(); ++i) {
    const JsonAt token = added.at(i);
    const std::int64_t id = token.at("id").index(limit);
    const std::string& content = token.at("content").text();
    if (content.empty()) token.at("content").refuse("a text that is not empty");
    const auto [first, is_new] = seen.emplace(id, i);
    check(is_new, "{} is {}, which added_tokens[{}] has too", token.at("id").where(), id, first->second);
    const auto known = ids.find(content);
    check(known == ids.end() || known->second == id, "{} is {}, but {} is {} in the vocabulary", token.at("id").where(),
          id, content, known == ids.end() ? 0 : known->second);
    const bool in_model = known != ids.end();
    d.added.push_back({.id = static_cast<std::int32_t>(id),
                       .single_word = token.flag("single_word", false),
                       .lstrip = token.flag("lstrip", false),
                       .rstrip = token.flag("rstrip", false),
                       .normalized = token.flag("normalized", true),
                       .special = token.flag("special", false),
                       .in_model = in_model});
    if (!in_model) outside.emplace_back(content, id);
  }
  for (const auto& [content, id] : outside)
    place_token(d, content, id, fmt::format("{}: the id of {}", added.where(), content));
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

void read_config(const std::string& text, const std::string& where, BpeDescription& d) {
  const json parsed = text.empty() ? json::object() : parse_json<json>(text, where);
  const JsonAt config(parsed, where);
  d.bos = token_named(config, "bos_token", d);
  auto eos = token_named(config, "eos_token", d);
  for (const char* usual :
       {"<|im_end|>", "<|eot_id|>", "<|endoftext|>", "<|end_of_text|>", "<｜end▁of▁sentence｜>", "</s>"}) {
    const auto found = std::find(d.tokens.begin(), d.tokens.end(), usual);
    if (!eos && found != d.tokens.end()) eos = static_cast<std::int32_t>(found - d.tokens.begin());
  }
  check(eos.has_value(), "{}: eos_token is absent, expected the token that ends a sequence", where);
  d.eos = *eos;
  if (const JsonAt chat = config.get("chat_template"); chat.json().is_string()) d.chat_template = chat.text();
}

}  // namespace

BpeDescription read_tokenizer_json(const HuggingFaceTokenizer& files, const std::string& where) {
  const json parsed = parse_json<json>(files.tokenizer_json, where);
  const JsonAt document(parsed, where);
  const std::uint64_t limit = files.tokenizer_json.size() / 4;  // of ids: a token takes more bytes than that
  BpeDescription d;
  read_model(document.at("model"), limit, d);
  read_added(document.get("added_tokens"), limit, d);
  d.normalizer = read_normalizer(document.get("normalizer"));
  d.pretokenizer = read_pretokenizer(document.get("pre_tokenizer"));
  check_decoder(document.get("decoder"));
  read_template(document.get("post_processor"), d);
  read_config(files.tokenizer_config_json, fmt::format("{}: tokenizer_config.json", where), d);
  return d;
}

std::shared_ptr<const Tokenizer> tokenizer_from_hugging_face(HuggingFaceTokenizer files, const std::string& where) {
  BpeDescription description = read_tokenizer_json(files, where);
  return std::make_shared<BpeTokenizer>(std::move(description), where, std::move(files));
}

std::shared_ptr<const Tokenizer> open_hugging_face_tokenizer(const std::filesystem::path& path) {
  namespace fs = std::filesystem;
  const fs::path file = fs::is_directory(path) ? path / "tokenizer.json" : path;
  HuggingFaceTokenizer files;
  files.tokenizer_json = read_text_file(file, max_file_bytes);
  const fs::path config = file.parent_path() / "tokenizer_config.json";
  if (fs::exists(config)) files.tokenizer_config_json = read_text_file(config, max_file_bytes);
  const fs::path chat = file.parent_path() / "chat_template.jinja";  // of newer folders; goes out with the config
  if (fs::exists(chat)) {
    const std::string& config_json = files.tokenizer_config_json;
    auto parsed = parse_json<nlohmann::ordered_json>(config_json.empty() ? "{}" : config_json, config.string());
    const std::string text = read_text_file(chat, max_file_bytes);
    if (parsed.is_object() && !parsed.contains("chat_template") && valid_utf8_prefix(text) == text.size()) {
      parsed["chat_template"] = text;
      files.tokenizer_config_json = parsed.dump(2);
    }
  }
  return tokenizer_from_hugging_face(std::move(files), file.string());
}

}  // namespace limbeck::data
