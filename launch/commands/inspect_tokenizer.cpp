// Tokenizers.
#include <fmt/ranges.h>

#include <algorithm>

#include "data/tokenizers/tokenizer_bpe.h"
#include "data/tokenizers/tokenizer_sentencepiece.h"
#include "launch/commands/inspect_parts.h"
#include "launch/run/model_source.h"

namespace limbeck::launch {

using Json = nlohmann::ordered_json;

namespace {

/// The names that GGUF files and `tokenize --train` have for how words are cut, or the patterns themselves.
std::string pretokenizer_of(const data::BpeDescription& d) {
  const bool is_nfc = std::any_of(d.normalizer.begin(), d.normalizer.end(), [](const data::NormalizerStep& step) {
    return step.kind == data::NormalizerStep::Kind::Form && step.form == data::UnicodeForm::Nfc;
  });
  if (const auto name = data::pretokenizer_name(d.pretokenizer, d.ignore_merges, is_nfc))
    return fmt::format("{}", fmt::join(data::pretokenizer_rules(*name, *name).names, " / "));
  std::vector<std::string> stages;
  for (const data::PretokenizerStage& stage : d.pretokenizer)
    stages.push_back(stage.pattern.empty() ? "spaces" : stage.pattern);
  return stages.empty() ? "none" : fmt::format("{}", fmt::join(stages, "  "));
}

Json special(const data::Tokenizer& tokenizer, std::int32_t id) {
  return {{"id", id}, {"text", std::string(tokenizer.name_of(id))}};
}

Json special_tokens(const data::Tokenizer& tokenizer) {
  Json list = Json::array();
  if (const auto* bpe = dynamic_cast<const data::BpeTokenizer*>(&tokenizer)) {
    for (const data::AddedToken& added : bpe->description().added)
      if (added.special) list.push_back(special(tokenizer, added.id));
  } else if (const auto* pieces = dynamic_cast<const data::SentencePieceTokenizer*>(&tokenizer)) {
    const auto& all = pieces->description().model.pieces;
    for (std::size_t id = 0; id < all.size(); ++id)
      if (all[id].type == data::SentencePieceModel::Type::Control)
        list.push_back(special(tokenizer, static_cast<std::int32_t>(id)));
  }
  return list;
}

}  // namespace

Json tokenizer_json(const data::Tokenizer& tokenizer) {
  Json json;
  if (const auto* bpe = dynamic_cast<const data::BpeTokenizer*>(&tokenizer)) {
    const data::BpeDescription& d = bpe->description();
    json["kind"] = d.byte_fallback ? "BPE with byte fallback" : d.merges.empty() ? "bytes" : "BPE on bytes";
    json["vocabulary"] = tokenizer.vocabulary_size();
    json["merges"] = d.merges.size();
    json["pretokenizer"] = pretokenizer_of(d);
  } else if (const auto* pieces = dynamic_cast<const data::SentencePieceTokenizer*>(&tokenizer)) {
    const auto& model = pieces->description().model;
    json["kind"] = model.kind == data::SentencePieceModel::Kind::Bpe ? "SentencePiece BPE" : "SentencePiece unigram";
    json["vocabulary"] = tokenizer.vocabulary_size();
    if (!model.normalizer_name.empty()) json["normalizer"] = model.normalizer_name;
  }
  json["special_tokens"] = special_tokens(tokenizer);
  json["stop_ids"] = tokenizer.stop_ids();
  json["end_of_text_id"] = tokenizer.end_of_text_id();
  if (const auto start = tokenizer.start_of_text_id()) json["start_of_text_id"] = *start;
  json["chat_template"] = chat_template_json(tokenizer);
  return json;
}

Inspection inspect_tokenizer(const std::filesystem::path& path) {
  const auto tokenizer = open_tokenizer(path.string());
  Inspection found("tokenizer", path);
  const auto named = [&](std::int32_t id) { return fmt::format("{} {}", id, shown_text(tokenizer->name_of(id))); };
  const Json json = tokenizer_json(*tokenizer);
  found.add("algorithm", json["kind"]);
  for (const char* member : {"vocabulary", "merges", "pretokenizer", "normalizer"})
    if (json.contains(member)) found.add(member, json[member]);
  constexpr std::size_t most = 20;
  std::vector<std::string> specials, stops;
  for (const Json& token : json["special_tokens"])
    if (specials.size() < most) specials.push_back(named(token["id"].get<std::int32_t>()));
  const std::size_t more = json["special_tokens"].size() - specials.size();
  found.add("special tokens", json["special_tokens"],
            fmt::format("{}{}", fmt::join(specials, ", "), more > 0 ? fmt::format(" and {} more", more) : ""));
  for (const std::int32_t id : tokenizer->stop_ids()) stops.push_back(named(id));
  found.add("stop ids", json["stop_ids"], fmt::format("{}", fmt::join(stops, ", ")));
  found.add("end of text", json["end_of_text_id"], named(tokenizer->end_of_text_id()));
  if (const auto start = tokenizer->start_of_text_id()) found.add("begin", *start, named(*start));
  add_chat_template(found, *tokenizer);
  return found;
}

}  // namespace limbeck::launch
