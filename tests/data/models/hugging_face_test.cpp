#include "data/models/hugging_face.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "data/models/hugging_face_config.h"
#include "tests/support/places.h"
#include "tests/support/temporary_folder.h"

namespace limbeck::data {
namespace {

namespace fs = std::filesystem;
using core::DType;
using core::Memory;
using core::Shape;
using core::StateEntry;
using core::Tensor;
using limbeck::testing::error_of;
using limbeck::testing::read_file;
using limbeck::testing::TemporaryFolder;
using limbeck::testing::write_file;
using ::testing::AllOf;
using ::testing::HasSubstr;

nn::ModelConfig dense_config() {
  nn::ModelConfig c;
  c.vocabulary = 11;
  c.width = 8;
  c.num_layers = 2;
  c.num_heads = 3;  // heads * head width is not the width
  c.num_kv_heads = 1;
  c.head_width = 4;
  c.mlp_width = 6;
  c.max_positions = 32;
  c.rope_base = 12345;
  return c;
}
nn::ModelConfig moe_config() {
  nn::ModelConfig c = dense_config();
  c.mlp_width = 0;
  c.moe = {.num_experts = 3, .experts_per_token = 2, .expert_width = 5, .dense_layers = {}};
  return c;
}

/// Tensors in memory; the value of an element is its index times 2^-6 plus the length of the tensor's name.
class Made : public core::StateReader {
 public:
  explicit Made(std::map<std::string, Shape> shapes) {
    for (const auto& [name, shape] : shapes) tensors_[name] = {shape, DType::F32};
  }
  static float value(const std::string& name, std::int64_t index) {
    return static_cast<float>(index) / 64 + static_cast<float>(name.size());
  }
  std::string source() const override { return "made"; }
  const std::map<std::string, core::StateInfo>& tensors() const override { return tensors_; }

 private:
  void fill(const std::string& name, const core::StateInfo& info, StateEntry& entry) const override {
    const std::int64_t first = entry.offset[0] * info.shape.row_size();  // the exporter asks for leading rows alone
    std::vector<float> values(static_cast<std::size_t>(entry.tensor.numel()));
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = value(name, first + static_cast<std::int64_t>(i));
    entry.tensor.copy_from(
        Tensor::from<float>(entry.tensor.memory(), entry.tensor.shape(), values).to(entry.tensor.dtype()));
  }

  std::map<std::string, core::StateInfo> tensors_;
};

std::map<std::string, Shape> shapes_of(const nn::ModelConfig& c) {
  std::map<std::string, Shape> shapes = {{"embed.weight", {11, 8}}, {"norm.weight", {8}}};
  if (!c.tied_head) shapes["head.weight"] = {11, 8};
  for (const std::string layer : {"layers.0.", "layers.1."}) {
    shapes[layer + "attention_norm.weight"] = shapes[layer + "mlp_norm.weight"] = {8};
    shapes[layer + "attention.q.weight"] = {12, 8};
    shapes[layer + "attention.k.weight"] = shapes[layer + "attention.v.weight"] = {4, 8};
    shapes[layer + "attention.o.weight"] = {8, 12};
    if (c.moe.num_experts > 0) {
      shapes[layer + "moe.router.weight"] = {3, 8};
      shapes[layer + "moe.experts.gate"] = shapes[layer + "moe.experts.up"] = {3, 5, 8};
      shapes[layer + "moe.experts.down"] = {3, 8, 5};
    } else {
      shapes[layer + "mlp.gate.weight"] = shapes[layer + "mlp.up.weight"] = {6, 8};
      shapes[layer + "mlp.down.weight"] = {8, 6};
    }
  }
  return shapes;
}

void write_model(const nn::ModelConfig& config, const fs::path& folder, const HuggingFaceExport& options) {
  export_hugging_face(Made(shapes_of(config)), config, folder, options);
}

void expect_round_trip(const nn::ModelConfig& config, const HuggingFaceExport& options) {
  const TemporaryFolder folder;
  write_model(config, folder.path(), options);
  const HuggingFaceModel model(folder.path());
  EXPECT_EQ(model.model_config(), config);
  const auto memory = Memory::cpu(1);
  const auto shapes = shapes_of(config);
  ASSERT_EQ(model.tensors().size(), shapes.size());
  for (const auto& [name, shape] : shapes) {
    StateEntry entry = StateEntry::whole(Tensor::zeros(memory, DType::F32, shape));
    model.read(name, entry);
    const auto values = core::host_values<float>(entry.tensor);
    for (std::size_t i = 0; i < values.size(); ++i) {
      const float expected = Made::value(name, static_cast<std::int64_t>(i));
      ASSERT_EQ(values[i], options.dtype == DType::F32 ? expected : static_cast<float>(core::bf16(expected))) << name;
    }
  }
}

TEST(HuggingFace, LlamaComesBack) { expect_round_trip(dense_config(), {.dtype = DType::F32}); }
TEST(HuggingFace, MixtralComesBackAsBfloat16) { expect_round_trip(moe_config(), {.dtype = DType::BF16}); }
TEST(HuggingFace, ShardsComeBack) { expect_round_trip(moe_config(), {.dtype = DType::F32, .max_shard_bytes = 500}); }
TEST(HuggingFace, TiedHeadComesBack) {
  nn::ModelConfig config = dense_config();
  config.tied_head = true;
  expect_round_trip(config, {.dtype = DType::F32});
}

// Mixtral: w1 is gate, w3 up, w2 down; expert 1 of gate starts after 5 * 8 elements.
TEST(HuggingFace, AFolderWithAModelIsNotWrittenInto) {
  const TemporaryFolder folder;
  write_model(moe_config(), folder / "sharded", {.max_shard_bytes = 500});
  const auto written_to = [&](const std::string& name) {
    return error_of([&] { write_model(dense_config(), folder / name, {}); });
  };
  EXPECT_THAT(written_to("sharded"), AllOf(HasSubstr((folder / "sharded").string()), HasSubstr("without a model")));
  for (const char* part : {"config.json", "model.safetensors.index.json", "model-00001-of-00002.safetensors"}) {
    const std::string name = std::string("part_") + part;
    fs::create_directory(folder / name);
    write_file(folder / name / part, "");
    EXPECT_THAT(written_to(name), HasSubstr(part));
  }
  fs::create_directory(folder / "tokenizer");
  write_file(folder / "tokenizer" / "tokenizer.json", "mine");
  EXPECT_THAT(error_of([&] {
                write_model(dense_config(), folder / "tokenizer", {.files = {{"tokenizer.json", "{}"}}});
              }),
              HasSubstr("there is tokenizer.json already"));
  EXPECT_EQ(read_file(folder / "tokenizer" / "tokenizer.json"), "mine");
  fs::create_directory(folder / "cloned");
  write_file(folder / "cloned" / "README.md", "x");
  EXPECT_EQ(written_to("cloned"), "");
  for (const char* name : {"cloned/README.md", "cloned/README.md/below"})
    EXPECT_THAT(written_to(name), AllOf(HasSubstr((folder / name).string()), HasSubstr("cannot be made")));
}

TEST(HuggingFace, ExpertsLieInTheirOwnTensors) {
  const TemporaryFolder folder;
  write_model(moe_config(), folder.path(), {.dtype = DType::F32});
  const SafetensorsFile file(folder.path() / "model.safetensors");
  const auto first_value = [&](const std::string& name, const Shape& shape) {
    const SafetensorsEntry& entry = file.tensors().at("model.layers.1.block_sparse_moe.experts." + name + ".weight");
    EXPECT_EQ(entry.shape, shape);
    float value = 0;
    SafetensorsFile::read(entry, 0, 1, DType::F32, reinterpret_cast<std::byte*>(&value));
    return value;
  };
  EXPECT_EQ(first_value("1.w1", {5, 8}), Made::value("layers.1.moe.experts.gate", 40));
  EXPECT_EQ(first_value("2.w3", {5, 8}), Made::value("layers.1.moe.experts.up", 80));
  EXPECT_EQ(first_value("2.w2", {8, 5}), Made::value("layers.1.moe.experts.down", 80));
  EXPECT_EQ(file.tensors().size(), 3U + 2 * (6 + 1 + 9));
}

TEST(HuggingFace, BoxesOfStacksAndMatricesAreRead) {
  const TemporaryFolder folder;
  write_model(moe_config(), folder.path(), {.dtype = DType::F32});
  const HuggingFaceModel model(folder.path());
  const auto memory = Memory::cpu(1);
  StateEntry stack{{3, 8, 5}, {1, 2, 1}, Tensor::zeros(memory, DType::F64, {2, 3, 2}), true};
  model.read("layers.0.moe.experts.down", stack);
  for (std::int64_t e = 0; e < 2; ++e)
    for (std::int64_t r = 0; r < 3; ++r)
      for (std::int64_t c = 0; c < 2; ++c)
        EXPECT_EQ(stack.tensor.data<double>()[(e * 3 + r) * 2 + c],
                  Made::value("layers.0.moe.experts.down", ((e + 1) * 8 + r + 2) * 5 + c + 1));
  StateEntry rows{{12, 8}, {5, 0}, Tensor::zeros(memory, DType::F32, {2, 8}), true};
  model.read("layers.1.attention.q.weight", rows);
  EXPECT_EQ(rows.tensor.data<float>()[15], Made::value("layers.1.attention.q.weight", 5 * 8 + 15));
  StateEntry vector{{8}, {3}, Tensor::zeros(memory, DType::F32, {2}), true};
  model.read("norm.weight", vector);
  EXPECT_EQ(vector.tensor.data<float>()[1], Made::value("norm.weight", 4));
  EXPECT_THAT(error_of([&] { model.read("absent", vector); }), HasSubstr("no tensor absent"));
}

// tests/golden/safetensors/make_mixtral.py: transformers saved it, with expert + row/64 + column/4096 everywhere; gate
// and up are rows 0-2 and 3-5 of one matrix there.
TEST(HuggingFace, ReadsWhatTransformersSaved) {
  const HuggingFaceModel model(testing::golden_folder() / "safetensors/mixtral");
  EXPECT_EQ(model.model_config().rope_base, 5000.0);
  EXPECT_EQ(model.model_config().moe.experts_per_token, 1);
  const auto memory = Memory::cpu(1);
  const auto expect = [&](const std::string& name, const Shape& shape, float first_row) {
    StateEntry entry = StateEntry::whole(Tensor::zeros(memory, DType::F32, shape));
    model.read(name, entry);
    const std::int64_t columns = shape[shape.rank() - 1];
    const std::int64_t rows = shape.rank() > 1 ? shape[shape.rank() - 2] : 1;
    for (std::int64_t i = 0; i < shape.numel(); ++i)
      ASSERT_EQ(entry.tensor.data<float>()[i], static_cast<float>(i / columns / rows) +
                                                   (static_cast<float>(i / columns % rows) + first_row) / 64 +
                                                   static_cast<float>(i % columns) / 4096)
          << name << " " << i;
  };
  expect("embed.weight", {7, 4}, 0);
  expect("layers.0.attention.o.weight", {4, 4}, 0);
  expect("layers.0.attention.k.weight", {2, 4}, 0);
  expect("layers.0.mlp_norm.weight", {4}, 0);
  expect("layers.0.moe.router.weight", {2, 4}, 0);
  expect("layers.0.moe.experts.gate", {2, 3, 4}, 0);
  expect("layers.0.moe.experts.up", {2, 3, 4}, 3);
  expect("layers.0.moe.experts.down", {2, 4, 3}, 0);
}

TEST(HuggingFace, ConfigIsWhatTransformersExpects) {
  const TemporaryFolder folder;
  write_model(moe_config(), folder.path(),
              {.dtype = DType::BF16, .files = {{"tokenizer.json", "{\"t\":1}"}}, .bos_token = 1, .eos_tokens = {2}});
  const auto json = nlohmann::json::parse(read_file(folder.path() / "config.json"));
  EXPECT_EQ(json["architectures"][0], "MixtralForCausalLM");
  EXPECT_EQ(json["num_local_experts"], 3);
  EXPECT_EQ(json["num_experts_per_tok"], 2);
  EXPECT_EQ(json["intermediate_size"], 5);
  EXPECT_EQ(json["head_dim"], 4);
  EXPECT_EQ(json["rope_theta"], 12345.0);
  EXPECT_EQ(json["torch_dtype"], "bfloat16");
  EXPECT_EQ(json["eos_token_id"], 2);
  EXPECT_EQ(read_file(folder.path() / "tokenizer.json"), "{\"t\":1}");
  const auto several = nlohmann::json::parse(hugging_face_config(dense_config(), {.eos_tokens = {2, 7}}));
  EXPECT_EQ(several["eos_token_id"], nlohmann::json({2, 7}));
  EXPECT_EQ(nlohmann::json::parse(hugging_face_config(dense_config(), {}))["eos_token_id"], nullptr);
}

TEST(HuggingFace, WhatNeitherArchitectureHasIsNotExported) {
  const TemporaryFolder folder;
  const auto attempt = [&](auto change, HuggingFaceExport options = {}) {
    nn::ModelConfig config = moe_config();
    change(config);
    return error_of([&] { write_model(config, folder.path() / "out", options); });
  };
  EXPECT_THAT(
      attempt([](auto& c) { c.moe.dense_layers = {0}; }),
      AllOf(HasSubstr("1 of 2 layers have experts"), HasSubstr("no format of others holds this model, but a Limbeck")));
  EXPECT_THAT(attempt([](auto& c) { c.moe.renormalise = false; }), HasSubstr("moe.renormalise is false"));
  EXPECT_THAT(attempt([](auto& c) { c.moe.weight_scale = 2.5; }), HasSubstr("moe.weight_scale is 2.5"));
  EXPECT_THAT(attempt([](auto& c) { c.moe.shared_width = 3; }), HasSubstr("moe.shared_width is 3, expected 0"));
  EXPECT_THAT(attempt([](auto&) {}, {.dtype = DType::I64}), HasSubstr("dtype is int64"));
  EXPECT_FALSE(fs::exists(folder.path() / "out"));
}

TEST(HuggingFace, MoreTensorsThanMemoryHasNamesForAreRefusedAtTheFirst) {
  const TemporaryFolder folder;
  nn::ModelConfig config = moe_config();
  config.num_layers = 10'000;
  config.moe.num_experts = 65'536;
  write_file(folder.path() / "config.json", hugging_face_config(config, {.dtype = DType::F32}));
  write_file(folder.path() / "model.safetensors", std::string("\2\0\0\0\0\0\0\0{}", 10));
  EXPECT_THAT(error_of([&] { HuggingFaceModel{folder.path()}; }), HasSubstr("has no tensor model.embed_tokens.weight"));
}

/// A model of dense_config() as `tensors`, in a file of that name.
void write_tensors(const fs::path& file, const std::map<std::string, Shape>& tensors, float value = 1) {
  std::vector<SafetensorsPlan> plan;
  for (const auto& [name, shape] : tensors) plan.push_back({name, DType::F32, shape});
  SafetensorsWriter writer(file, plan, {});
  const auto memory = Memory::cpu(1);
  for (const auto& tensor : plan) {
    const std::vector<float> values(static_cast<std::size_t>(tensor.shape.numel()), value);
    writer.write(Tensor::from<float>(memory, tensor.shape, values));
  }
  writer.finish();
}

std::map<std::string, Shape> stored_shapes(const fs::path& file) {
  std::map<std::string, Shape> shapes;
  const SafetensorsFile stored(file);
  for (const auto& [name, entry] : stored.tensors()) shapes[name] = entry.shape;
  return shapes;
}

float first_value(const HuggingFaceModel& model, const std::string& name, const Shape& shape) {
  StateEntry entry = StateEntry::whole(Tensor::zeros(Memory::cpu(1), DType::F32, shape));
  model.read(name, entry);
  return core::host_values<float>(entry.tensor).front();
}

// As transformers 5.24: a head that is there and differs is not tied, with a warning.
TEST(HuggingFace, AHeadThatDiffersIsNotTied) {
  const TemporaryFolder folder;
  nn::ModelConfig tied = dense_config();
  tied.tied_head = true;
  const auto open = [&](float head) {
    fs::remove_all(folder / "m");
    write_model(tied, folder / "m", {.dtype = DType::F32});
    auto shapes = stored_shapes(folder / "m" / "model.safetensors");
    const Shape table = shapes.at("model.embed_tokens.weight");
    fs::rename(folder / "m" / "model.safetensors", folder / "m" / "model-1.safetensors");
    shapes = {{"lm_head.weight", table}};
    write_tensors(folder / "m" / "model-2.safetensors", shapes, head);
    nlohmann::json map;
    for (const auto& [name, shape] : stored_shapes(folder / "m" / "model-1.safetensors"))
      map[name] = "model-1.safetensors";
    map["lm_head.weight"] = "model-2.safetensors";
    write_file(folder / "m" / "model.safetensors.index.json", nlohmann::json{{"weight_map", map}}.dump());
    return HuggingFaceModel(folder / "m");
  };
  const HuggingFaceModel differs = open(3);
  EXPECT_FALSE(differs.model_config().tied_head);
  EXPECT_EQ(first_value(differs, "head.weight", {11, 8}), 3);
  ASSERT_EQ(differs.notices().size(), 1U);
  EXPECT_THAT(differs.notices()[0], HasSubstr("lm_head.weight differs from model.embed_tokens.weight"));

  // Equal values, in whatever dtype, are tied; and the head alone is the embedding too.
  fs::remove_all(folder / "e");
  write_model(tied, folder / "e", {.dtype = DType::F32});
  auto shapes = stored_shapes(folder / "e" / "model.safetensors");
  shapes["lm_head.weight"] = {11, 8};
  write_tensors(folder / "e" / "model.safetensors", shapes, 5);
  EXPECT_TRUE(HuggingFaceModel(folder / "e").model_config().tied_head);
  EXPECT_TRUE(HuggingFaceModel(folder / "e").notices().empty());
  shapes.erase("model.embed_tokens.weight");
  write_tensors(folder / "e" / "model.safetensors", shapes, 5);
  EXPECT_EQ(first_value(HuggingFaceModel(folder / "e"), "embed.weight", {11, 8}), 5);
  // Without the flag there has to be a head.
  shapes["model.embed_tokens.weight"] = {11, 8};
  shapes.erase("lm_head.weight");
  write_tensors(folder / "e" / "model.safetensors", shapes, 5);
  write_file(folder / "e" / "config.json", hugging_face_config(dense_config(), {.dtype = DType::F32}));
  EXPECT_THAT(error_of([&] { HuggingFaceModel{folder / "e"}; }), HasSubstr("has no tensor lm_head.weight"));
}

TEST(HuggingFace, OneFileGoesBeforeAStaleIndexAndAnIndexIsBelieved) {
  const TemporaryFolder folder;
  write_model(dense_config(), folder / "m", {.dtype = DType::F32});
  const auto shapes = stored_shapes(folder / "m" / "model.safetensors");
  write_tensors(folder / "m" / "model-00001-of-00001.safetensors", shapes, 9);
  nlohmann::json map;
  for (const auto& [name, shape] : shapes) map[name] = "model-00001-of-00001.safetensors";
  const auto write_index = [&](const nlohmann::json& weight_map) {
    write_file(folder / "m" / "model.safetensors.index.json", nlohmann::json{{"weight_map", weight_map}}.dump());
  };
  write_index(map);
  const HuggingFaceModel both(folder / "m");
  EXPECT_EQ(first_value(both, "norm.weight", {8}), Made::value("norm.weight", 0));  // as transformers takes it
  ASSERT_EQ(both.notices().size(), 1U);
  EXPECT_THAT(both.notices()[0], HasSubstr("has model.safetensors and model.safetensors.index.json"));

  fs::remove(folder / "m" / "model.safetensors");
  EXPECT_EQ(first_value(HuggingFaceModel(folder / "m"), "norm.weight", {8}), 9);
  nlohmann::json less = map;
  less.erase("model.norm.weight");
  write_index(less);
  EXPECT_THAT(error_of([&] { HuggingFaceModel{folder / "m"}; }),
              HasSubstr("tensor model.norm.weight is in model-00001-of-00001.safetensors, expected it in none"));
  nlohmann::json more = map;
  more["model.more"] = "model-00001-of-00001.safetensors";
  write_index(more);
  EXPECT_THAT(error_of([&] { HuggingFaceModel{folder / "m"}; }), HasSubstr("tensor model.more is not in"));

  fs::remove(folder / "m" / "model.safetensors.index.json");
  fs::remove(folder / "m" / "model-00001-of-00001.safetensors");
  for (const auto& [file, what] :
       std::map<std::string, std::string>{{"pytorch_model.bin", "PyTorch's own format"},
                                          {"consolidated.safetensors", "Mistral's or Meta's own format"},
                                          {"adapter_model.safetensors", "a LoRA adapter"}}) {
    write_file(folder / "m" / file, "x");
    EXPECT_THAT(error_of([&] { HuggingFaceModel{folder / "m"}; }),
                AllOf(HasSubstr("has neither"), HasSubstr(file + ", " + what)));
    fs::remove(folder / "m" / file);
  }
}

// transformers' MistralConfig and MixtralConfig have 8, LlamaConfig as many as there are heads; null is that for all.
TEST(HuggingFace, AbsentKeyValueHeadsAreThoseOfTheArchitecture) {
  const TemporaryFolder folder;
  nn::ModelConfig config = dense_config();
  config.num_heads = 16;
  write_file(folder.path() / "config.json", hugging_face_config(config, {.dtype = DType::F32}));
  auto json = nlohmann::json::parse(read_file(folder.path() / "config.json"));
  json["sliding_window"] = nullptr;
  json["num_local_experts"] = json["num_experts_per_tok"] = 1;
  const auto heads = [&](const char* architecture) {
    json["architectures"] = {architecture};
    write_file(folder.path() / "config.json", json.dump());
    return read_hugging_face_config(folder.path()).model.num_kv_heads;
  };
  for (const char* architecture : {"LlamaForCausalLM", "MistralForCausalLM", "MixtralForCausalLM"}) {
    json["num_key_value_heads"] = 2;
    EXPECT_EQ(heads(architecture), 2);
    json["num_key_value_heads"] = nullptr;
    EXPECT_EQ(heads(architecture), 16);
    json.erase("num_key_value_heads");
    EXPECT_EQ(heads(architecture), std::string(architecture) == "LlamaForCausalLM" ? 16 : 8);
  }
}

TEST(HuggingFace, FieldsThatAreNotHonouredAreRefusedByName) {
  const TemporaryFolder folder;
  write_model(dense_config(), folder.path(), {.dtype = DType::F32});
  const auto original = nlohmann::json::parse(read_file(folder.path() / "config.json"));
  const auto attempt = [&](const char* patch) {
    auto json = original;
    json.merge_patch(nlohmann::json::parse(patch));
    write_file(folder.path() / "config.json", json.dump());
    return error_of([&] { HuggingFaceModel{folder.path()}; });
  };
  EXPECT_EQ(attempt("{}"), "");
  EXPECT_EQ(attempt(R"({"rope_theta": null, "rope_parameters": {"rope_type": "default", "rope_theta": 5}})"), "");
  EXPECT_EQ(attempt(R"({"rope_scaling": {"type": "linear", "factor": 1.0}})"), "");
  EXPECT_EQ(attempt(R"({"rope_parameters": {"rope_type": "linear", "factor": 1, "rope_theta": 5}})"), "");
  EXPECT_THAT(attempt(R"({"rope_scaling": {"type": "linear"}})"), HasSubstr("rope_scaling"));
  EXPECT_THAT(attempt(R"({"rope_scaling": {"rope_type": "default", "factor": 2}})"), HasSubstr("rope_scaling"));
  EXPECT_THAT(attempt(R"({"rope_scaling": {"rope_type": "llama3", "factor": 8}})"), HasSubstr("rope_scaling"));
  EXPECT_THAT(attempt(R"({"rope_scaling": {"type": "dynamic", "factor": 2}})"), HasSubstr("rope_scaling"));
  EXPECT_THAT(attempt(R"({"rope_parameters": {"rope_type": "yarn"}})"), HasSubstr("rope_parameters"));
  EXPECT_THAT(attempt(R"({"sliding_window": 4096})"), HasSubstr("sliding_window is 4096"));
  EXPECT_THAT(attempt(R"({"architectures": ["Qwen2ForCausalLM"], "use_sliding_window": true, "max_window_layers": 0,
                          "sliding_window": 0})"),
              HasSubstr("sliding_window is 0, expected 1 or more"));
  EXPECT_THAT(attempt(R"({"architectures": ["FalconForCausalLM"]})"),
              AllOf(HasSubstr("architectures is FalconForCausalLM"), HasSubstr("Qwen2ForCausalLM")));
  EXPECT_THAT(attempt(R"({"architectures": ["Qwen2ForCausalLM"]})"),
              HasSubstr("has no tensor model.layers.0.self_attn.q_proj.bias"));
  EXPECT_THAT(attempt(R"({"architectures": null})"), HasSubstr("architectures is absent"));
  EXPECT_THAT(attempt(R"({"attention_bias": true})"), HasSubstr("attention_bias is true"));
  EXPECT_THAT(attempt(R"({"mlp_bias": true})"), HasSubstr("mlp_bias is true"));
  EXPECT_THAT(attempt(R"({"hidden_act": "gelu"})"), HasSubstr("hidden_act is \"gelu\""));
  EXPECT_THAT(attempt(R"({"vocab_size": null})"), HasSubstr("vocab_size is absent"));
  EXPECT_THAT(attempt(R"({"hidden_size": "big"})"), HasSubstr("hidden_size is \"big\""));
  EXPECT_THAT(attempt(R"({"hidden_size": 16})"),
              HasSubstr("model.embed_tokens.weight has shape [11,8], expected [11,16]"));
  EXPECT_THAT(attempt(R"({"hidden_size": 1e18})"), HasSubstr("hidden_size is 1e+18"));
  EXPECT_THAT(attempt(R"({"vocab_size": 1000000000000})"), HasSubstr("expected at most"));
  EXPECT_THAT(attempt(R"({"num_hidden_layers": 3})"), HasSubstr("no tensor model.layers.2.input_layernorm.weight"));
  EXPECT_THAT(attempt(R"({"num_hidden_layers": 1})"), HasSubstr("model.layers.1."));
  EXPECT_THAT(attempt(R"({"num_attention_heads": 0})"), HasSubstr("num_attention_heads is 0"));
  const std::string deep(1'000'000, '[');
  write_file(folder.path() / "config.json", "{\"vocab_size\": " + deep + std::string(deep.size(), ']') + "}");
  EXPECT_THAT(error_of([&] { HuggingFaceModel{folder.path()}; }),
              HasSubstr("config.json: is nested more than 64 deep"));
  write_file(folder.path() / "config.json", "{");
  EXPECT_THAT(error_of([&] { HuggingFaceModel{folder.path()}; }), HasSubstr("config.json"));
}

}  // namespace
}  // namespace limbeck::data
