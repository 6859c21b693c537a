// A Llama of zeros, most of them an embedding of 50,000 tokens (and a head), of which the disk holds nothing.
//
//     write_zeros_model(folder / "model", {.width = 1024, .inner = 32, .tied_head = false});     // 2 x 205 MB
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace limbeck::testing {

struct ZerosModel {
  std::int64_t width, inner;  // of the stream; of the one head and the feed-forward
  bool tied_head;
};

/// As a Hugging Face directory.
inline void write_zeros_model(const std::filesystem::path& folder, const ZerosModel& model) {
  namespace fs = std::filesystem;
  constexpr std::int64_t vocabulary = 50000;
  const auto [width, inner, tied_head] = model;
  fs::create_directories(folder);
  std::ofstream(folder / "config.json") << nlohmann::json({{"architectures", {"LlamaForCausalLM"}},
                                                           {"vocab_size", vocabulary},
                                                           {"hidden_size", width},
                                                           {"intermediate_size", inner},
                                                           {"num_hidden_layers", 1},
                                                           {"num_attention_heads", 1},
                                                           {"head_dim", inner},
                                                           {"max_position_embeddings", 8},
                                                           {"tie_word_embeddings", tied_head}})
                                               .dump();
  nlohmann::json tensors;
  std::int64_t bytes = 0;
  const auto add = [&](const std::string& name, std::vector<std::int64_t> shape) {
    std::int64_t size = 4;
    for (const auto extent : shape) size *= extent;
    tensors[name] = {{"dtype", "F32"}, {"shape", shape}, {"data_offsets", {bytes, bytes + size}}};
    bytes += size;
  };
  const std::string layer = "model.layers.0.";
  add("model.embed_tokens.weight", {vocabulary, width});
  if (!tied_head) add("lm_head.weight", {vocabulary, width});
  for (const char* norm : {"input_layernorm", "post_attention_layernorm"}) add(layer + norm + ".weight", {width});
  for (const char* part : {"q", "k", "v"}) add(layer + "self_attn." + part + "_proj.weight", {inner, width});
  for (const char* part : {"gate", "up"}) add(layer + "mlp." + part + "_proj.weight", {inner, width});
  add(layer + "self_attn.o_proj.weight", {width, inner});
  add(layer + "mlp.down_proj.weight", {width, inner});
  add("model.norm.weight", {width});
  const std::string head = tensors.dump();
  const std::uint64_t size = head.size();
  std::ofstream file(folder / "model.safetensors", std::ios::binary);
  file.write(reinterpret_cast<const char*>(&size), sizeof size) << head;
  file.close();
  fs::resize_file(folder / "model.safetensors", sizeof size + head.size() + static_cast<std::uintmax_t>(bytes));
}

}  // namespace limbeck::testing
