// What `convert` finds when it reads back what it wrote, on models that transformers saved.
#include "launch/run/conversion_check.h"

#include <gmock/gmock.h>

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/nn/transformer.h"
#include "data/models/families/family.h"
#include "data/models/gguf_export.h"
#include "data/models/hugging_face.h"
#include "tests/support/family_reference.h"
#include "tests/support/places.h"
#include "tests/support/temporary_folder.h"

namespace limbeck::launch {
namespace {

namespace fs = std::filesystem;
using core::DType;
using ::testing::AllOf;
using testing::error_of;
using ::testing::HasSubstr;
using testing::read_file;
using testing::TemporaryFolder;
using testing::write_file;

fs::path golden(const std::string& family) { return testing::family_folder(family); }

/// A model times 2/3, for those that transformers saved have values that bfloat16 and float16 hold.
class Thirds : public core::StateReader {
 public:
  explicit Thirds(std::shared_ptr<const core::StateReader> of) : of_(std::move(of)), tensors_(of_->tensors()) {
    for (auto& [name, info] : tensors_) info.dtype = DType::F32;
  }
  std::string source() const override { return of_->source(); }
  const std::map<std::string, core::StateInfo>& tensors() const override { return tensors_; }

 private:
  void fill(const std::string& name, const core::StateInfo&, core::StateEntry& entry) const override {
    of_->read(name, entry);
    auto* values = entry.tensor.mutable_host<float>();
    for (std::int64_t i = 0; i < entry.tensor.numel(); ++i) values[i] *= 2.0F / 3;
  }
  std::shared_ptr<const core::StateReader> of_;
  std::map<std::string, core::StateInfo> tensors_;
};

ModelSource thirds(const std::string& family) {
  ModelSource source = open_model(golden(family));
  source.reader = std::make_shared<Thirds>(source.reader);
  return source;
}

class ConvertedFamilies : public ::testing::TestWithParam<const char*> {};

TEST_P(ConvertedFamilies, AreTheSameInADirectory) {
  const TemporaryFolder folder;
  const ModelSource source = thirds(GetParam());
  for (const DType dtype : {DType::F32, DType::BF16}) {
    const fs::path out = folder / std::string(core::name_of(dtype));
    data::export_hugging_face(*source.reader, source.config, out, {.dtype = dtype, .max_shard_bytes = 30000});
    const ConversionCheck check = check_conversion(source, open_model(out), {.threads = 2});
    EXPECT_EQ(check.is_exact, dtype == DType::F32);
    if (check.is_exact) {
      EXPECT_LT(check.difference, 1e-6);
    }
    // Expert by expert and a few rows at a time the sums are the same.
    const ConversionCheck pieces = check_conversion(source, open_model(out), {.bytes_at_once = 1});
    EXPECT_NEAR(pieces.difference, check.difference, 1e-6);
    if (!check.is_exact) {
      EXPECT_GT(check.difference, 1e-5);
    }
  }
}

TEST_P(ConvertedFamilies, AreTheSameInAFile) {
  const TemporaryFolder folder;
  const ModelSource source = thirds(GetParam());
  if (data::beyond_all_families(source.config, data::beyond_gguf)) GTEST_SKIP() << "GGUF cannot say all of it";
  for (const DType dtype : {DType::F32, DType::F16, DType::Q8_0, DType::Q4_0}) {
    const fs::path out = folder / (std::string(core::name_of(dtype)) + ".gguf");
    data::export_gguf(*source.reader, source.config, out, {.dtype = dtype});
    const ConversionCheck check = check_conversion(source, open_model(out), {.threads = 2});
    EXPECT_EQ(check.is_exact, dtype == DType::F32) << core::name_of(dtype);
    EXPECT_LT(check.difference, dtype == DType::F32 ? 1e-5 : dtype == DType::Q4_0 ? 0.5 : 0.03) << core::name_of(dtype);
  }
}

INSTANTIATE_TEST_SUITE_P(OfPeople, ConvertedFamilies,
                         ::testing::Values("llama", "llama_tied", "mistral", "mixtral", "qwen2", "qwen2_moe", "qwen3",
                                           "qwen3_moe", "olmoe", "olmo2", "gemma3", "phi3", "phi4_mini", "phimoe",
                                           "gpt2", "deepseek_v2", "deepseek_v3", "kimi_k2", "glm4", "glm4_moe",
                                           "glm4_moe_air", "gpt_oss", "granite_hybrid"),
                         [](const auto& test) { return std::string(test.param); });

// Experts in MXFP4: those that were so are the same, others are rounded.
TEST(ConvertedMxfp4, IsTheSameOrRounded) {
  const TemporaryFolder folder;
  for (const char* name : {"../gpt_oss_mxfp4/gate", "../gpt_oss_mxfp4/down"})
    for (const bool is_same : {true, false}) {
      const ModelSource source = is_same ? open_model(golden(name)) : thirds(name);
      const std::string to = fmt::format("{}{}", fs::path(name).filename().string(), is_same);
      data::export_hugging_face(*source.reader, source.config, folder / to, {.dtype = DType::MXFP4});
      data::export_gguf(*source.reader, source.config, folder / (to + ".gguf"), {.dtype = DType::MXFP4});
      for (const fs::path& written : {folder / to, folder / (to + ".gguf")}) {
        const ConversionCheck check = check_conversion(source, open_model(written), {.threads = 2});
        EXPECT_EQ(check.is_exact, is_same) << written;
        EXPECT_LT(check.difference, is_same ? 1e-5 : 0.5) << written;
      }
    }
}

/// Of a model of any numbers, values that differ everywhere.
class Sines : public core::StateReader {
 public:
  explicit Sines(const nn::ModelConfig& config) {
    nn::Transformer model(config, {.memory = core::Memory::cpu(1), .frozen = true});
    for (const core::Parameter* p : model.parameters()) tensors_[p->name] = {p->global_shape, DType::F32};
  }
  std::string source() const override { return "sines"; }
  const std::map<std::string, core::StateInfo>& tensors() const override { return tensors_; }

 private:
  void fill(const std::string& name, const core::StateInfo& info, core::StateEntry& entry) const override {
    const core::Shape& box = entry.tensor.shape();
    for (std::int64_t i = 0; i < box.numel(); ++i) {
      std::int64_t at = 0, stride = 1, rest = i;
      for (int d = box.rank() - 1; d >= 0; rest /= box[d], stride *= info.shape[d], --d)
        at += (entry.offset[static_cast<std::size_t>(d)] + rest % box[d]) * stride;
      entry.tensor.mutable_host<float>()[i] = std::sin(0.7F * static_cast<float>(at) + static_cast<float>(name.size()));
    }
  }
  std::map<std::string, core::StateInfo> tensors_;
};

// GGUF has the heads that widen DeepSeek's keys transposed: what blocks are of lies in columns here.
TEST(Conversion, TransposedHeadsAreRoundedAlongTheFilesRows) {
  ModelSource source = open_model(golden("deepseek_v3"));
  source.config.head_width = 32 + source.config.latent.rope_width;
  source.config.latent.rank = 64;
  source.config.attention_scale = 0;
  source.config.rope_scaling = {};
  source.reader = std::make_shared<Sines>(source.config);
  const TemporaryFolder folder;
  for (const DType dtype : {DType::F32, DType::Q8_0, DType::Q4_0}) {
    const fs::path out = folder / (std::string(core::name_of(dtype)) + ".gguf");
    data::export_gguf(*source.reader, source.config, out, {.dtype = dtype});
    const ModelSource written = open_model(out);
    EXPECT_EQ(written.reader->tensors().at("layers.0.attention.k_b.weight").dtype, dtype);
    EXPECT_EQ(check_conversion(source, written, {}).is_exact, dtype == DType::F32);
  }
}

/// A Mixtral of transformers' in one file, and what is said of it when it is damaged.
class DamagedConversion : public ::testing::Test {
 protected:
  void SetUp() override {
    data::export_hugging_face(*source_.reader, source_.config, out_, {.dtype = DType::F32});
    bytes_ = read_file(out_ / "model.safetensors");
  }
  std::string found() {
    return error_of([&] { check_conversion(source_, open_model(out_), {}); });
  }
  void write(const std::string& bytes) { write_file(out_ / "model.safetensors", bytes); }
  /// First byte and bytes of a tensor in the file.
  std::pair<std::size_t, std::size_t> place(const std::string& tensor) const {
    std::uint64_t header = 0;
    std::memcpy(&header, bytes_.data(), sizeof header);
    const auto offsets = nlohmann::json::parse(bytes_.substr(8, header)).at(tensor).at("data_offsets");
    const std::size_t first = offsets[0], end = offsets[1];
    return {8 + header + first, end - first};
  }

  const ModelSource source_ = open_model(golden("mixtral"));
  TemporaryFolder folder_;
  const fs::path out_ = folder_ / "out";
  std::string bytes_;
};

TEST_F(DamagedConversion, NothingIsFoundInWhatIsWhole) { EXPECT_EQ(found(), ""); }

TEST_F(DamagedConversion, AFlippedBitIsFoundInAnyTensor) {
  const data::SafetensorsFile file(out_ / "model.safetensors");
  for (const auto& [name, entry] : file.tensors()) {
    const auto [first, size] = place(name);
    for (const std::size_t at : {first, first + size / 2 / 4 * 4, first + size - 4}) {  // lowest bits of values
      std::string damaged = bytes_;
      damaged[at] = static_cast<char>(damaged[at] ^ 1);
      write(damaged);
      EXPECT_THAT(found(), AllOf(HasSubstr("values of "), HasSubstr("are not those of"))) << name;
    }
  }
}

TEST_F(DamagedConversion, SwappedExpertsAreFound) {
  for (const char* matrix : {"w1", "w2", "w3"}) {
    std::string damaged = bytes_;
    const auto [a, size] = place(fmt::format("model.layers.1.block_sparse_moe.experts.0.{}.weight", matrix));
    const auto [b, same] = place(fmt::format("model.layers.1.block_sparse_moe.experts.1.{}.weight", matrix));
    ASSERT_EQ(size, same);
    damaged.replace(a, size, bytes_.substr(b, size));
    damaged.replace(b, size, bytes_.substr(a, size));
    write(damaged);
    EXPECT_THAT(found(), HasSubstr("values of layers.1.moe.experts.")) << matrix;
  }
}

TEST_F(DamagedConversion, ATransposedMatrixIsFound) {
  const std::string name = "model.layers.0.self_attn.q_proj.weight";
  const data::SafetensorsFile file(out_ / "model.safetensors");
  const core::Shape shape = file.tensors().at(name).shape;
  const std::int64_t side = std::min(shape[0], shape[1]);  // the square within it
  std::string damaged = bytes_;
  const std::size_t first = place(name).first;
  for (std::int64_t r = 0; r < side; ++r)
    for (std::int64_t c = 0; c < side; ++c)
      damaged.replace(first + 4 * static_cast<std::size_t>(r * shape[1] + c), 4,
                      bytes_.substr(first + 4 * static_cast<std::size_t>(c * shape[1] + r), 4));
  write(damaged);
  EXPECT_THAT(found(), HasSubstr("values of layers.0.attention.q.weight"));
}

TEST_F(DamagedConversion, OtherNumbersAreFoundByTheLogits) {
  const auto config = nlohmann::json::parse(read_file(out_ / "config.json"));
  for (const auto& [field, value] :
       {std::pair("rope_theta", nlohmann::json(12.0)), {"rms_norm_eps", 0.5}, {"num_experts_per_tok", 1}}) {
    nlohmann::json changed = config;
    changed[field] = value;
    write_file(out_ / "config.json", changed.dump());
    EXPECT_THAT(found(), HasSubstr(field == std::string("num_experts_per_tok") ? "expected" : "its logits differ"))
        << field;
  }
}

TEST_F(DamagedConversion, AHeadThatIsLostIsFound) {
  nn::ModelConfig tied = source_.config;
  tied.tied_head = true;
  data::export_hugging_face(*source_.reader, tied, folder_ / "tied", {.dtype = DType::F32});
  EXPECT_THAT(error_of([&] { check_conversion(source_, open_model(folder_ / "tied"), {}); }),
              HasSubstr("values of embed.weight are not those of"));
}

}  // namespace
}  // namespace limbeck::launch
