#include "data/models/gguf_choice.h"

#include <charconv>
#include <string>
#include <string_view>

namespace limbeck::data {

using core::DType;

namespace {

/// In the first and last eighth of the layers, and in each third between.
bool has_more_bits(std::int64_t layer, std::int64_t num_layers) {
  const std::int64_t eighth = num_layers / 8;
  return layer < eighth || layer >= 7 * num_layers / 8 || (layer - eighth) % 3 == 2;
}

/// N of "blk.N.": -1 of a tensor of no layer.
std::int64_t layer_of(std::string_view stored) {
  std::int64_t layer = -1;
  if (stored.starts_with("blk.")) std::from_chars(stored.data() + 4, stored.data() + stored.size(), layer);
  return layer;
}

std::int64_t columns_of(const GgufName& name) {
  const core::Shape shape = name.stored_shape();
  return shape[shape.rank() - 1];
}

/// Whatever the rows are.
DType chosen(const GgufName& name, const nn::ModelConfig& config, const Family& family, DType wanted) {
  const std::string& stored = name.stored;
  const std::int64_t columns = columns_of(name);
  const bool is_mix = wanted == DType::Q4_K || wanted == DType::Q5_K;
  const bool has_8_experts = config.moe.num_experts == 8;
  if (stored == "output.weight" || (stored == "token_embd.weight" && config.tied_head)) {
    if (wanted == DType::Q8_0 || columns % core::info(wanted).block_elements != 0) return DType::Q8_0;
    return DType::Q6_K;
  }
  const bool has_more = is_mix && has_more_bits(layer_of(stored), config.num_layers);
  if (stored.find("attn_v.") != std::string::npos) {
    if (has_8_experts) return DType::Q8_0;
    const bool is_70b =
        family.gguf == std::string_view("llama") && config.num_layers == 80 && config.num_heads != config.num_kv_heads;
    if (has_more) return DType::Q6_K;
    return is_70b && wanted == DType::Q4_K ? DType::Q5_K : wanted;
  }
  if (stored.find("attn_k.") != std::string::npos && has_8_experts) return DType::Q8_0;
  if (stored.find("attn_output.") != std::string::npos && has_8_experts && wanted == DType::Q4_K) return DType::Q5_K;
  if (stored.find("attn_qkv.") != std::string::npos && is_mix) return wanted == DType::Q4_K ? DType::Q5_K : DType::Q6_K;
  if (stored.find("ffn_down") != std::string::npos && has_more) return DType::Q6_K;
  return wanted;
}

/// What takes rows of 32 values for one that takes rows of 256.
DType with_smaller_blocks(DType dtype) {
  if (dtype == DType::Q4_K) return DType::Q5_0;
  if (dtype == DType::Q5_K) return DType::Q5_1;
  return dtype == DType::Q6_K ? DType::Q8_0 : dtype;
}

}  // namespace

GgufChoice gguf_choice(const GgufName& name, const nn::ModelConfig& config, const Family& family, DType wanted) {
  if (name.stored_shape().rank() == 1 || name.stored.ends_with(".bias") ||
      name.stored.ends_with(".ffn_gate_inp.weight") || name.stored == "position_embd.weight" || name.as.rank() > 0 ||
      name.stored.ends_with(".ssm_conv1d.weight"))
    return {DType::F32};
  if (core::info(wanted).block_elements == 1) return {wanted};
  if (wanted == DType::MXFP4 && name.stored.find("_exps.") == std::string::npos) return {DType::BF16};
  const std::int64_t columns = columns_of(name);
  const auto fits = [&](DType dtype) { return columns % core::info(dtype).block_elements == 0; };
  const DType dtype = chosen(name, config, family, wanted);
  if (fits(dtype)) return {dtype};
  const DType smaller = with_smaller_blocks(dtype);
  return {fits(smaller) ? smaller : DType::F16, true};
}

std::map<std::string, GgufKept> gguf_kept(const nn::ModelConfig& config, DType wanted, const std::string& what) {
  if (const auto beyond = beyond_all_families(config, beyond_gguf))
    core::fail_usage("{}: no GGUF file holds this model: {}", what, *beyond);
  const Family& family = family_for(config, what, beyond_gguf);
  nn::ModelConfig held = config;
  if (!family.gguf_predicts) held.num_predict_layers = 0;
  std::map<std::string, GgufKept> kept;
  for (const GgufName& name : gguf_names(held, family))
    if (!name.is_copy) kept[name.name] = {gguf_choice(name, held, family, wanted).dtype, name.is_transposed};
  return kept;
}

std::uint32_t gguf_file_type(DType dtype) {
  switch (dtype) {
    case DType::F32:
      return 0;
    case DType::F16:
      return 1;
    case DType::Q4_0:
      return 2;
    case DType::Q8_0:
      return 7;
    case DType::Q4_K:
      return 15;
    case DType::Q5_K:
      return 17;
    case DType::Q6_K:
      return 18;
    case DType::BF16:
      return 32;
    case DType::MXFP4:
      return 38;
    default:
      core::fail("GGUF export: dtype is {}, expected float32, float16, bfloat16, Q8_0, Q4_0, Q6_K, Q5_K, Q4_K or MXFP4",
                 dtype);
  }
}

}  // namespace limbeck::data
