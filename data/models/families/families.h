// All families. A new one is a file beside this, a line here, and one in families() of family.cpp.
#pragma once

#include "data/models/families/family.h"

namespace limbeck::data {

const Family& llama_family();
const Family& mistral_family();
const Family& mixtral_family();
const Family& qwen2_family();
const Family& qwen2_moe_family();
const Family& qwen3_family();
const Family& qwen3_moe_family();
const Family& olmo2_family();
const Family& olmoe_family();
const Family& gemma3_family();
const Family& phi3_family();
const Family& phimoe_family();
const Family& gpt2_family();
const Family& deepseek_v2_family();
const Family& deepseek_v3_family();
const Family& gpt_oss_family();
const Family& glm4_family();
const Family& glm4_moe_family();
const Family& mamba2_family();
const Family& bamba_family();
const Family& granite_hybrid_family();

}  // namespace limbeck::data
