// Layers that predict further tokens, in GGUF: files by llama.cpp's names and orders (tests/golden/gguf).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "data/models/gguf_export.h"
#include "data/models/gguf_model.h"
#include "data/models/gguf_write.h"
#include "data/models/hugging_face.h"
#include "launch/run/conversion_check.h"
#include "launch/run/model_source.h"
#include "tests/support/family_reference.h"

namespace limbeck {
namespace {

namespace fs = std::filesystem;
using core::DType;
using core::Tensor;
using data::GgufFile;
using data::GgufModel;
using data::HuggingFaceModel;
using ::testing::ElementsAre;
using testing::FamilyReference;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::TemporaryFolder;

GgufModel open_file(const fs::path& path) { return GgufModel(std::make_shared<GgufFile>(path.string())); }

std::vector<double> values_of(const core::StateReader& model, const std::string& name) {
  core::StateEntry entry =
      core::StateEntry::whole(Tensor::zeros(core::Memory::cpu(1), DType::F32, model.tensors().at(name).shape));
  model.read(name, entry);
  return testing::values_of(entry.tensor);
}

void expect_same(const core::StateReader& a, const core::StateReader& b) {
  ASSERT_EQ(a.tensors().size(), b.tensors().size());
  for (const auto& [name, info] : a.tensors()) EXPECT_EQ(values_of(a, name), values_of(b, name)) << name;
}

/// A family whose first model has a layer behind, as a directory and as a file.
class GgufPredicts : public ::testing::TestWithParam<const char*> {
 protected:
  const fs::path golden = testing::golden_folder() / "gguf";
  const fs::path file = golden / (std::string(GetParam()) + ".gguf");
  const fs::path directory = testing::made_folder(golden / GetParam(), FamilyReference(GetParam()).seed());
  const TemporaryFolder folder;

  /// The file with some of its tensors, which may be changed.
  fs::path write_some(const std::function<bool(const std::string&)>& is_kept,
                      const std::function<void(const std::string&, std::vector<float>&)>& change = {}) const {
    const GgufFile all(file.string());
    data::GgufKeys keys;
    for (const auto& [key, value] : all.metadata()) {
      if (const auto* flag = std::get_if<bool>(&value)) keys.emplace_back(key, *flag);
      if (const auto* integer = std::get_if<std::int64_t>(&value))
        keys.emplace_back(key, static_cast<std::uint32_t>(*integer));
      if (const auto* real = std::get_if<double>(&value)) keys.emplace_back(key, static_cast<float>(*real));
      if (const auto* text = std::get_if<std::string>(&value)) keys.emplace_back(key, *text);
    }
    std::vector<data::GgufPlan> plan;
    for (const auto& [name, tensor] : all.tensors())
      if (is_kept(name)) plan.push_back({name, tensor.dtype, tensor.shape});
    data::GgufWriter writer(folder / "some.gguf", keys, plan);
    for (const data::GgufPlan& part : plan) {
      std::vector<float> values(static_cast<std::size_t>(part.shape.numel()));
      all.read(all.tensors().at(part.name), 0, part.shape.numel(), values.data());
      if (change) change(part.name, values);
      writer.write(values);
    }
    writer.finish();
    return folder / "some.gguf";
  }
};

TEST_P(GgufPredicts, FilesAreReadAsDirectories) {
  const GgufModel model = open_file(file);
  const HuggingFaceModel expected(directory);
  EXPECT_EQ(model.model_config().num_layers, expected.model_config().num_layers);
  EXPECT_EQ(model.model_config().num_predict_layers, 1);
  EXPECT_EQ(expected.model_config().num_predict_layers, 1);
  EXPECT_THAT(model.notices(), IsEmpty());
  expect_same(model, expected);
}

// The model's own embedding and head are taken, and its last norm where a layer has none, as in llama.cpp.
TEST_P(GgufPredicts, FilesMayBeWithoutCopiesAndTheLastNorm) {
  const fs::path path = write_some([](const std::string& name) {
    return name.find("nextn.embed") == std::string::npos && name.find("nextn.shared_head") == std::string::npos;
  });
  const GgufModel model = open_file(path), whole = open_file(file);
  EXPECT_THAT(model.notices(), IsEmpty());
  ASSERT_EQ(model.tensors().size(), whole.tensors().size());
  EXPECT_EQ(values_of(model, "predict.0.norm.weight"), values_of(whole, "norm.weight"));
  EXPECT_NE(values_of(whole, "predict.0.norm.weight"), values_of(whole, "norm.weight"));
  EXPECT_EQ(values_of(model, "predict.0.project.weight"), values_of(whole, "predict.0.project.weight"));
}

TEST_P(GgufPredicts, CopiesThatDifferAreSaid) {
  const auto all = [](const std::string&) { return true; };
  const GgufModel model = open_file(write_some(all, [](const std::string& name, std::vector<float>& values) {
    if (name.find("nextn.shared_head_head") != std::string::npos) values.back() += 1;
  }));
  EXPECT_THAT(model.notices(),
              ElementsAre(HasSubstr("nextn.shared_head_head.weight differs from what it is a copy of, head.weight")));
  expect_same(model, open_file(file));
}

// As llama.cpp takes a file of the layers that give the text alone; what is not whole is named.
TEST_P(GgufPredicts, FilesMayBeWithoutWhatPredicts) {
  const auto is_there = [](const std::string& name) { return name.find("nextn.eh_proj") == std::string::npos; };
  const GgufModel model = open_file(write_some(is_there));
  EXPECT_EQ(model.model_config().num_predict_layers, 0);
  EXPECT_THAT(model.notices(), ElementsAre(HasSubstr("tensors of layers from")));
  for (const auto& [name, info] : model.tensors()) EXPECT_FALSE(name.starts_with("predict.")) << name;
  const auto has_norm = [](const std::string& name) { return name.find("nextn.hnorm") == std::string::npos; };
  const fs::path path = write_some(has_norm);
  EXPECT_THAT([&] { open_file(path); }, ::testing::ThrowsMessage<core::Error>(HasSubstr("nextn.hnorm.weight")));
}

INSTANTIATE_TEST_SUITE_P(By, GgufPredicts, ::testing::Values("glm4_moe", "deepseek_v3"),
                         [](const auto& test) { return std::string(test.param); });

// What llama.cpp's converter makes of the directory, tensor for tensor and key for key.
TEST(GgufPredict, FilesOfGlmAreThoseOfTheConverter) {
  const fs::path golden = testing::golden_folder() / "gguf";
  const fs::path directory = testing::made_folder(golden / "glm4_moe", FamilyReference("glm4_moe").seed());
  const HuggingFaceModel model(directory);
  const TemporaryFolder folder;
  std::vector<std::string> notices;
  data::ExportWork work;
  work.notice = [&](const std::string& line) { notices.push_back(line); };
  data::export_gguf(model, model.model_config(), folder / "m.gguf", {.dtype = DType::F32, .work = work});
  EXPECT_THAT(notices, IsEmpty());
  const GgufFile found((folder / "m.gguf").string()), expected((golden / "glm4_moe.gguf").string());
  ASSERT_EQ(found.tensors().size(), expected.tensors().size());
  for (const auto& [name, tensor] : expected.tensors()) {
    ASSERT_TRUE(found.tensors().contains(name)) << name;
    const data::GgufTensor& mine = found.tensors().at(name);
    ASSERT_EQ(mine.shape, tensor.shape) << name;
    ASSERT_EQ(mine.bytes, tensor.bytes) << name;
    EXPECT_EQ(std::memcmp(found.data(mine), expected.data(tensor), static_cast<std::size_t>(tensor.bytes)), 0) << name;
  }
  for (const auto& [key, value] : expected.metadata())
    if (key.starts_with("glm4moe.")) {
      ASSERT_TRUE(found.has(key)) << key;
      EXPECT_EQ(found.metadata().at(key), value) << key;
    }
  EXPECT_TRUE(
      launch::check_conversion(launch::open_model(directory), launch::open_model(folder / "m.gguf"), {}).is_exact);
}

// A file that has lost them is none of the model that has them.
TEST(GgufPredict, WhatIsLostIsFound) {
  const fs::path golden = testing::golden_folder() / "gguf";
  const fs::path directory = testing::made_folder(golden / "glm4_moe", FamilyReference("glm4_moe").seed());
  const HuggingFaceModel model(directory);
  nn::ModelConfig without = model.model_config();
  without.num_predict_layers = 0;
  const TemporaryFolder folder;
  data::export_gguf(model, without, folder / "m.gguf", {.dtype = DType::F32});
  EXPECT_THAT(
      [&] { launch::check_conversion(launch::open_model(directory), launch::open_model(folder / "m.gguf"), {}); },
      ::testing::ThrowsMessage<core::Error>(HasSubstr("has no tensor predict.0.")));
}

}  // namespace
}  // namespace limbeck
