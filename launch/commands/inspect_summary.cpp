// What a model is made of, and what of it may surprise.
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "core/counted.h"
#include "data/files/json_text.h"
#include "data/models/gguf.h"
#include "data/tokenizers/chat_template.h"
#include "data/tokenizers/tokenizer_folder.h"
#include "data/tokenizers/vocabulary.h"
#include "launch/commands/inspect_parts.h"

namespace limbeck::launch {

using Json = nlohmann::ordered_json;

namespace {

void add_layers(Inspection& found, const nn::ModelConfig& config) {
  std::int64_t experts = 0;
  std::map<std::int64_t, std::int64_t> windows;  // layers by window; 0: all before it
  for (std::int64_t i = 0; i < config.num_layers; ++i) {
    const nn::LayerConfig layer = config.layer(i);
    experts += layer.is_moe ? 1 : 0;
    if (!layer.is_mamba) ++windows[layer.window];
  }
  const std::int64_t dense = config.feed_forward ? config.num_layers - experts : 0;
  std::vector<std::string> kinds, views;
  std::string mixers;
  if (experts > 0) kinds.push_back(fmt::format("{} with experts", experts));
  if (dense > 0) kinds.push_back(fmt::format("{} dense", dense));
  if (!config.feed_forward) kinds.emplace_back("no feed-forwards");
  Json json = {{"total", config.num_layers}, {"dense", dense}, {"experts", experts}, {"full", windows[0]}};
  json["windows"] = Json::array();
  for (const auto& [window, layers] : windows) {
    if (layers == 0) continue;
    views.push_back(window == 0 ? fmt::format("{} see all tokens before", layers)
                                : fmt::format("{} a window of {}", layers, window));
    if (window > 0) json["windows"].push_back({{"tokens", window}, {"layers", layers}});
  }
  if (const std::int64_t mamba = config.num_mamba_layers(); mamba > 0) {
    json["mamba"] = mamba;
    mixers = fmt::format("{} of Mamba-2, {} of attention; ", mamba, config.num_layers - mamba);
  }
  found.add("layers", json,
            fmt::format("{}: {}{}{}{}", config.num_layers, mixers, fmt::join(kinds, ", "), views.empty() ? "" : "; ",
                        fmt::join(views, ", ")));
  if (const nn::MambaConfig& mamba = config.mamba; config.num_mamba_layers() > 0)
    found.add("mamba",
              {{"heads", mamba.num_heads},
               {"head_width", mamba.head_width},
               {"state_width", mamba.state_width},
               {"groups", mamba.num_groups},
               {"conv_width", mamba.conv_width}},
              fmt::format("{} heads of width {} in {}, states of {}, filters of {}", mamba.num_heads, mamba.head_width,
                          core::counted(mamba.num_groups, "group"), mamba.state_width,
                          core::counted(mamba.conv_width, "token")));
  if (config.num_predict_layers > 0)
    found.add("predict layers", config.num_predict_layers, core::counted(config.num_predict_layers, "further token"));
  if (experts == 0) return;
  const nn::MoeConfig& moe = config.moe;
  found.add("experts",
            {{"total", moe.num_experts},
             {"per_token", moe.experts_per_token},
             {"width", moe.expert_width},
             {"shared_width", moe.shared_width}},
            fmt::format("{} of width {}, {} a token{}", moe.num_experts, moe.expert_width, moe.experts_per_token,
                        moe.shared_width > 0 ? fmt::format("; shared ones of width {}", moe.shared_width) : ""));
}

/// The name of the token that fills batches up, by the tokenizer's config; empty where it says none.
std::string padding_of(const std::string& config) {
  if (!Json::accept(config)) return "";
  const Json json = Json::parse(config);
  if (!json.is_object() || !json.contains("pad_token")) return "";
  const Json& pad = json["pad_token"];
  if (pad.is_object() && pad.contains("content") && pad["content"].is_string()) return pad["content"];
  return pad.is_string() ? pad.get<std::string>() : "";
}

std::optional<std::int32_t> padding_id(const ModelSource& model) {
  const data::Tokenizer& tokenizer = *model.tokenizer;
  if (model.kind == ModelKind::Gguf) {
    const data::GgufFile file(model.path.string(), data::GgufFile::Formats::Any);
    constexpr const char* key = "tokenizer.ggml.padding_token_id";
    if (!file.has(key)) return std::nullopt;
    return static_cast<std::int32_t>(file.integer(key));
  }
  return tokenizer.id_of(padding_of(model.kind == ModelKind::HuggingFace
                                        ? data::read_tokenizer_config(model.path)
                                        : tokenizer.to_hugging_face().tokenizer_config_json));
}

std::vector<std::string> warnings_of(const ModelSource& model) {
  std::vector<std::string> warnings;
  const data::Tokenizer& tokenizer = *model.tokenizer;
  const std::int64_t rows = model.config.vocabulary, tokens = data::named_size(tokenizer);
  if (tokens > rows)
    warnings.push_back(fmt::format("the tokenizer has {}, the embedding {}: those from {} on cannot be read",
                                   core::counted(tokens, "token"), core::counted(rows, "row"), rows));
  if (tokens < rows)
    warnings.push_back(
        fmt::format("the vocabulary is padded: the embedding has {}, the tokenizer {}, so that {} no token",
                    core::counted(rows, "row"), core::counted(tokens, "token"),
                    rows - tokens == 1 ? "the last row is" : fmt::format("the last {} rows are", rows - tokens)));
  const auto pad = padding_id(model);
  if (pad && (*pad == tokenizer.eos_id() || *pad == tokenizer.end_of_text_id()))
    warnings.push_back(
        fmt::format("padding is token {}, {}, which also ends texts or answers: whoever leaves padding out of a loss "
                    "leaves ends out",
                    *pad, shown_text(tokenizer.name_of(*pad))));
  return warnings;
}

}  // namespace

Json chat_template_json(const data::Tokenizer& tokenizer) {
  if (tokenizer.chat_template().empty()) return nullptr;
  return data::chat_template_name(tokenizer.chat_template()).value_or("unknown");
}

void add_chat_template(Inspection& found, const data::Tokenizer& tokenizer) {
  const Json name = chat_template_json(tokenizer);
  found.add_member("chat_template", name);
  found.add_line("chat", name.is_null()      ? "none"
                         : name == "unknown" ? "none that is known: " + shown_text(tokenizer.chat_template())
                                             : name.get<std::string>());
}

void add_summary(Inspection& found, const ModelSource& model) {
  add_layers(found, model.config);
  if (!model.tokenizer) return;
  add_chat_template(found, *model.tokenizer);
  const std::vector<std::string> warnings = warnings_of(model);
  found.add_member("warnings", warnings);
  for (const std::string& warning : warnings) found.add_line("warning", warning);
}

}  // namespace limbeck::launch
