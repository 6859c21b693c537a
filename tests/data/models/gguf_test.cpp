#include "data/models/gguf.h"

#include <gtest/gtest.h>

#include <vector>

#include "core/nn/rope_scaling.h"
#include "data/models/gguf_model.h"
#include "data/models/gguf_write.h"
#include "tests/support/teacher_file.h"
#include "tests/support/temporary_folder.h"

namespace limbeck::data {
namespace {

using core::DType;
using core::Shape;

using testing::golden_path;
using testing::read_file;
using testing::write_file;

/// A GGUF file written by hand, field by field.
struct Bytes {
  std::string data;
  template <class T>
  Bytes& put(T value) {
    data.append(reinterpret_cast<const char*>(&value), sizeof value);
    return *this;
  }
  Bytes& text(const std::string& s) {
    put<std::uint64_t>(s.size());
    data += s;
    return *this;
  }
  static Bytes head(std::uint64_t tensors, std::uint64_t keys) {
    Bytes b;
    b.data = "GGUF";
    b.put<std::uint32_t>(3).put(tensors).put(keys);
    return b;
  }
  Bytes& tensor(const std::string& name, std::uint64_t columns, std::uint32_t type, std::uint64_t offset) {
    return text(name).put<std::uint32_t>(1).put(columns).put(type).put(offset);
  }
  Bytes& values(std::size_t bytes) {
    data.resize((data.size() + 31) / 32 * 32);
    data.append(bytes, '\0');
    return *this;
  }
};

class Gguf : public ::testing::Test {
 protected:
  std::string refusal_of(const std::string& bytes) {
    const std::string path = folder_.path() / "bad.gguf";
    write_file(path, bytes);
    const std::string message = testing::error_of([&] { GgufFile file(path); });
    if (!message.empty()) {
      EXPECT_TRUE(message.starts_with(path + ":")) << message;
      EXPECT_EQ(message.find('\n'), std::string::npos) << message;
    }
    return message;
  }
  testing::TemporaryFolder folder_;
};

TEST_F(Gguf, ReadsEveryMetadataType) {
  const GgufFile file(golden_path("gguf/blocks.gguf"));
  EXPECT_EQ(file.integer("a.uint8"), 200);
  EXPECT_EQ(file.integer("a.int8"), -100);
  EXPECT_EQ(file.integer("a.uint16"), 60000);
  EXPECT_EQ(file.integer("a.int16"), -30000);
  EXPECT_EQ(file.integer("a.uint32"), 4000000000);
  EXPECT_EQ(file.integer("a.int32"), -2000000000);
  EXPECT_EQ(file.integer("a.uint64"), std::int64_t{1} << 62);
  EXPECT_EQ(file.integer("a.int64"), -(std::int64_t{1} << 62));
  EXPECT_EQ(file.number("a.float32"), 0.5);
  EXPECT_EQ(file.number("a.float64"), 1e300);
  EXPECT_EQ(file.number("a.int8"), -100.0);
  EXPECT_TRUE(file.boolean("a.bool"));
  EXPECT_EQ(file.text("a.string"), "äöü");
  EXPECT_EQ(file.strings("a.strings"), (std::vector<std::string>{"x", "", "yz"}));
  EXPECT_EQ(file.integers("a.integers"), (std::vector<std::int64_t>{1, -2, 3}));
  EXPECT_EQ(file.numbers("a.numbers"), (std::vector<double>{0.5, -1.5}));
  EXPECT_EQ(file.integer_or("a.none", 9), 9);
  EXPECT_NE(testing::error_of([&] { (void)file.text("a.none"); }).find("has no metadata key a.none"),
            std::string::npos);
  EXPECT_NE(testing::error_of([&] { (void)file.text("a.int8"); }).find("a.int8 is an integer, expected a string"),
            std::string::npos);
}

// Cut anywhere, the file is refused with its name and one line; never read past its end.
TEST_F(Gguf, TruncationIsFoundAtEveryOffset) {
  for (const char* name : {"gguf/blocks.gguf", "gguf/llama_dense.gguf"}) {
    const std::string whole = read_file(golden_path(name));
    const GgufFile file(golden_path(name));
    std::int64_t end = 0;  // behind it there is only padding
    for (const auto& [_, tensor] : file.tensors()) end = std::max(end, tensor.offset + tensor.bytes);
    for (std::size_t size = 0; size < static_cast<std::size_t>(end); size += size < 600 ? 1 : 37)
      ASSERT_NE(refusal_of(whole.substr(0, size)), "") << name << " cut to " << size << " bytes";
  }
}

// A flipped byte may be harmless, but it must never be anything but harmless or an error.
TEST_F(Gguf, FlippedBytesOfTheHeadAreHarmlessOrRefused) {
  const std::string whole = read_file(golden_path("gguf/llama_moe.gguf"));
  int refused = 0;
  const std::string path = folder_.path() / "bad.gguf";
  for (std::size_t at = 0; at < 3200; at += 3)
    for (const int mask : {at % 2 == 0 ? 0x01 : 0xff}) {
      std::string bytes = whole;
      bytes[at] = static_cast<char>(bytes[at] ^ mask);
      write_file(path, bytes);
      try {
        const GgufModel model(std::make_shared<GgufFile>(path));
      } catch (const core::Error& error) {
        ++refused;
        ASSERT_TRUE(std::string(error.what()).starts_with(path)) << error.what();
      }
    }
  EXPECT_GT(refused, 300);
}

TEST_F(Gguf, HostileHeadsAreRefusedByName) {
  using B = Bytes;
  const auto expect = [&](const std::string& bytes, const char* part) {
    const std::string message = refusal_of(bytes);
    EXPECT_NE(message.find(part), std::string::npos) << message << " does not name: " << part;
  };
  expect("", "the file ends");
  expect("GGML1234", "is not a GGUF file");
  expect(std::string("GGUF\0\0\0\3", 8), "big-endian");
  expect(std::string("GGUF\1\0\0\0", 8), "version 1, expected 2 or 3");
  expect(B::head(~0ULL, 0).data, "the number of tensors");
  expect(B::head(0, 1ULL << 60).values(64).data, "the number of metadata keys");
  expect(B::head(0, 1).put<std::uint64_t>(~0ULL).values(64).data, "a metadata key of 18446744073709551615 bytes");
  expect(B::head(0, 1).text("k").put<std::uint32_t>(13).values(64).data, "metadata type 13");
  expect(B::head(0, 1).text("k").put<std::uint32_t>(7).put<std::uint8_t>(2).values(64).data, "a truth value is 2");
  expect(B::head(0, 1).text("k").put<std::uint32_t>(9).put<std::uint32_t>(9).values(64).data, "no array of arrays");
  expect(B::head(0, 1)
             .text("k")
             .put<std::uint32_t>(9)
             .put<std::uint32_t>(8)
             .put<std::uint64_t>(1ULL << 61)
             .values(64)
             .data,
         "an array's length");
  expect(B::head(0, 1).text("k").put<std::uint32_t>(10).put<std::uint64_t>(~0ULL).values(64).data, "too large");
  expect(B::head(0, 2)
             .text("k")
             .put<std::uint32_t>(0)
             .put<std::uint8_t>(1)
             .text("k")
             .put<std::uint32_t>(0)
             .put<std::uint8_t>(1)
             .values(64)
             .data,
         "metadata key k appears twice");
  expect(B::head(1, 0).text("t").put<std::uint32_t>(5).values(64).data, "tensor t has 5 dimensions");
  expect(B::head(1, 0).text("t").put<std::uint32_t>(0).values(64).data, "tensor t has 0 dimensions");
  expect(B::head(1, 0).tensor("t", 0, 0, 0).values(64).data, "tensor t has an extent of 0");
  expect(B::head(1, 0).tensor("t", ~0ULL, 0, 0).values(64).data, "tensor t has an extent of 18446744073709551615");
  expect(B::head(1, 0)
             .text("t")
             .put<std::uint32_t>(2)
             .put<std::uint64_t>(1ULL << 40)
             .put<std::uint64_t>(1ULL << 40)
             .put<std::uint32_t>(0)
             .put<std::uint64_t>(0)
             .values(64)
             .data,
         "tensor t has an extent");
  expect(
      B::head(1, 0).tensor("t", 256, 15, 0).values(999).data,
      "tensor t has type Q8_K, expected one of F32, F16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, "
      "IQ4_NL, IQ4_XS, BF16, MXFP4");
  expect(B::head(1, 0).tensor("t", 256, 77, 0).values(999).data, "type 77");
  expect(B::head(1, 0).tensor("t", 33, 8, 0).values(999).data, "expected whole Q8_0 blocks of 32");
  expect(B::head(1, 0).tensor("t", 128, 12, 0).values(999).data, "expected whole Q4_K blocks of 256");
  expect(B::head(1, 0).tensor("t", 256, 12, 0).values(143).data, "tensor t takes 144 bytes");
  expect(B::head(1, 0).tensor("t", 1ULL << 58, 12, 0).values(144).data, "tensor t takes");
  expect(B::head(1, 0).tensor("t", 8, 0, 4).values(64).data, "expected a multiple of 32");
  expect(B::head(1, 0).tensor("t", 8, 0, 64).values(64).data, "tensor t takes 32 bytes at offset 64");
  expect(B::head(1, 0).tensor("t", 8, 0, 1ULL << 63).values(64).data, "outside the file");
  expect(B::head(2, 0).tensor("t", 8, 0, 0).tensor("t", 8, 0, 32).values(64).data, "tensor t appears twice");
  expect(B::head(2, 0).tensor("t", 16, 0, 0).tensor("u", 8, 0, 32).values(64).data, "tensors t and u overlap");
  expect(B::head(0, 1).text("general.alignment").put<std::uint32_t>(4).put<std::uint32_t>(48).values(64).data,
         "general.alignment is 48, expected a power of two");
  EXPECT_EQ(refusal_of(B::head(2, 0).tensor("t", 8, 0, 0).tensor("u", 8, 0, 32).values(64).data),
            "");  // the template is good
  EXPECT_EQ(refusal_of(B::head(0, 0).data), "");
  EXPECT_NE(testing::error_of([] { GgufFile file("/nowhere/x.gguf"); }).find("/nowhere/x.gguf: cannot be opened"),
            std::string::npos);
  EXPECT_NE(testing::error_of([] { GgufFile file("/tmp"); }).find("not a regular file"), std::string::npos);
}

/// Value i of the n-th tensor of make_llama.py.
float made(int n, std::int64_t i) { return static_cast<float>(n + static_cast<double>(i) / 1000); }

core::StateEntry box(const core::MemoryPtr& memory, DType dtype, const Shape& global, std::vector<std::int64_t> offset,
                     const Shape& shape) {
  return {global, std::move(offset), core::Tensor::zeros(memory, dtype, shape), true};
}

TEST(GgufModelTest, MapsNamesConfigAndRows) {
  const auto memory = core::Memory::cpu(1);
  const GgufModel model(std::make_shared<GgufFile>(golden_path("gguf/llama_moe.gguf")));
  nn::ModelConfig expected;
  expected.vocabulary = 10;
  expected.width = 8;
  expected.num_layers = 2;
  expected.num_heads = 2;
  expected.num_kv_heads = 1;
  expected.head_width = 4;
  expected.mlp_width = 0;
  expected.max_positions = 32;
  expected.norm_eps = 1e-5F;
  expected.rope_base = 5000;
  expected.tied_head = false;
  expected.moe.num_experts = 3;
  expected.moe.experts_per_token = 2;
  expected.moe.expert_width = 6;
  EXPECT_EQ(model.model_config(), expected);

  // The order in which make_llama.py adds them.
  std::vector<std::string> names = {"embed.weight", "norm.weight", "head.weight"};
  for (const std::string layer : {"layers.0.", "layers.1."})
    for (const char* name : {"attention_norm.weight", "attention.q.weight", "attention.k.weight", "attention.v.weight",
                             "attention.o.weight", "mlp_norm.weight", "moe.router.weight", "moe.experts.gate",
                             "moe.experts.up", "moe.experts.down"})
      names.push_back(layer + name);
  ASSERT_EQ(model.tensors().size(), names.size());
  for (int n = 0; n < static_cast<int>(names.size()); ++n) {
    const auto& info = model.tensors().at(names[n]);
    auto entry = core::StateEntry::whole(core::Tensor::zeros(memory, DType::F32, info.shape));
    model.read(names[n], entry);
    for (std::int64_t i = 0; i < info.shape.numel(); ++i)
      ASSERT_EQ(entry.tensor.data<float>()[i], made(n, i)) << names[n];
  }
}

TEST(GgufModelTest, ReadsBoxesOfEveryDtype) {
  const auto memory = core::Memory::cpu(1);
  const GgufModel model(std::make_shared<GgufFile>(golden_path("gguf/llama_moe.gguf")));
  const Shape gate{3, 6, 8};  // tensor 10
  auto entry = box(memory, DType::F64, gate, {1, 2, 3}, {2, 3, 4});
  model.read("layers.0.moe.experts.gate", entry);
  const double* values = entry.tensor.data<double>();
  for (int e = 0; e < 2; ++e)
    for (int f = 0; f < 3; ++f)
      for (int c = 0; c < 4; ++c)
        EXPECT_EQ(*values++, static_cast<double>(made(10, ((e + 1) * 6 + f + 2) * 8 + c + 3)));
  auto rows = box(memory, DType::BF16, {8, 8}, {3, 0}, {3, 8});  // q: two heads, the box cuts both
  model.read("layers.0.attention.q.weight", rows);
  for (int i = 0; i < 24; ++i) EXPECT_EQ(rows.tensor.data<core::bf16>()[i].bits, core::bf16(made(4, 24 + i)).bits);
  auto none = box(memory, DType::F32, gate, {3, 0, 0}, {0, 6, 8});
  model.read("layers.0.moe.experts.gate", none);

  const auto error = [&](const char* name, core::StateEntry e) {
    return testing::error_of([&] { model.read(name, e); });
  };
  EXPECT_NE(error("layers.2.norm", box(memory, DType::F32, {8}, {0}, {8})).find("has no tensor layers.2.norm"),
            std::string::npos);
  EXPECT_NE(
      error("norm.weight", box(memory, DType::F32, {9}, {0}, {9})).find("norm.weight has shape [8], expected [9]"),
      std::string::npos);
  EXPECT_NE(error("norm.weight", box(memory, DType::F32, {8}, {5}, {4})).find("has no box"), std::string::npos);
  EXPECT_NE(error("norm.weight", box(memory, DType::F32, {8}, {-1}, {4})).find("has no box"), std::string::npos);
  EXPECT_NE(error("norm.weight", box(memory, DType::I32, {8}, {0}, {8})).find("cannot be read as int32"),
            std::string::npos);
}

TEST(GgufModelTest, DenseFileHasTiedHead) {
  const GgufModel model(std::make_shared<GgufFile>(golden_path("gguf/llama_dense.gguf")));
  EXPECT_TRUE(model.model_config().tied_head);
  EXPECT_EQ(model.model_config().mlp_width, 6);
  EXPECT_FALSE(model.tensors().contains("head.weight"));
  EXPECT_EQ(model.tensors().at("layers.1.mlp.down.weight").shape, (Shape{8, 6}));
}

TEST_F(Gguf, OtherArchitecturesAndScalingAreRefusedByName) {
  const auto refused = [&](const std::string& bytes) {
    const std::string path = folder_.path() / "model.gguf";
    write_file(path, bytes);
    return testing::error_of([&] { GgufModel model(std::make_shared<GgufFile>(path)); });
  };
  EXPECT_NE(refused(read_file(golden_path("gguf/blocks.gguf")))
                .find("general.architecture is test, expected one of llama, qwen2"),
            std::string::npos);
  std::string bytes = read_file(golden_path("gguf/llama_dense.gguf"));
  std::string changed = bytes;
  changed.replace(changed.find("blk.1.ffn_up.weight"), 19, "blk.1.ffn_ab.weight");
  EXPECT_NE(refused(changed).find("has no tensor blk.1.ffn_up.weight"), std::string::npos);
  // "llama.vocab_size" and "rope_freqs.weight" are made from names of the same length.
  changed = bytes;
  changed.replace(changed.find("output_norm.weight"), 18, "rope_freqs_.weight");
  EXPECT_NE(refused(changed).find("has no tensor output_norm.weight"), std::string::npos);
  auto scaled = Bytes::head(0, 2).text("general.architecture").put<std::uint32_t>(8).text("llama");
  scaled.text("llama.rope.scaling.type").put<std::uint32_t>(8).text("longrope");
  EXPECT_NE(refused(scaled.data).find("has no tensor token_embd.weight"), std::string::npos);
}

/// A model with two experts of width 32; the value of an element of expert matrix m is (its index + m) mod 128, which
/// Q8_0 holds exactly, for a row has a 127.
class SmallMoe {
 public:
  explicit SmallMoe(DType dtype) : dtype_(dtype) {}
  static float value(int matrix, std::int64_t i) { return static_cast<float>(i % 32 == 0 ? 127 : (i + matrix) % 128); }

  std::string write(const std::filesystem::path& path, bool is_merged, const GgufKeys& more = {},
                    const std::vector<float>& rope = {}) const {
    GgufKeys keys = {{"general.architecture", std::string("llama")},
                     {"llama.embedding_length", 32U},
                     {"llama.block_count", 1U},
                     {"llama.feed_forward_length", 64U},
                     {"llama.attention.head_count", 1U},
                     {"llama.context_length", 16U},
                     {"llama.attention.layer_norm_rms_epsilon", 1e-5F},
                     {"llama.expert_count", 2U},
                     {"llama.expert_used_count", 1U}};
    keys.insert(keys.end(), more.begin(), more.end());
    std::vector<GgufPlan> plan = {{"token_embd.weight", DType::F32, {4, 32}},
                                  {"output_norm.weight", DType::F32, {32}},
                                  {"blk.0.attn_norm.weight", DType::F32, {32}},
                                  {"blk.0.ffn_norm.weight", DType::F32, {32}},
                                  {"blk.0.ffn_gate_inp.weight", DType::F32, {2, 32}}};
    for (const char* name : {"attn_q", "attn_k", "attn_v", "attn_output"})
      plan.push_back({fmt::format("blk.0.{}.weight", name), DType::F32, {32, 32}});
    if (!rope.empty()) plan.push_back({"rope_freqs.weight", DType::F32, {static_cast<std::int64_t>(rope.size())}});
    const std::size_t num_plain = plan.size();
    for (const auto& [name, shape] : experts())
      if (is_merged)
        plan.push_back({fmt::format("blk.0.{}_exps.weight", name), dtype_, {2, shape[0], shape[1]}});
      else
        for (int e = 0; e < 2; ++e) plan.push_back({fmt::format("blk.0.{}.{}.weight", name, e), dtype_, shape});
    GgufWriter writer(path, keys, plan);
    for (std::size_t i = 0; i < num_plain; ++i)
      writer.write(plan[i].name == "rope_freqs.weight"
                       ? rope
                       : std::vector<float>(static_cast<std::size_t>(plan[i].shape.numel()), 1.0F));
    for (int matrix = 0; matrix < 6; ++matrix) {
      std::vector<float> values(64 * 32);
      for (std::size_t i = 0; i < values.size(); ++i) values[i] = value(matrix, static_cast<std::int64_t>(i));
      writer.write(values);
    }
    writer.finish();
    return path.string();
  }

 private:
  static std::vector<std::pair<std::string, Shape>> experts() {
    return {{"ffn_gate", {64, 32}}, {"ffn_up", {64, 32}}, {"ffn_down", {32, 64}}};
  }
  DType dtype_;
};

// Mixtral before April 2024: blk.0.ffn_gate.1.weight in place of a row of blk.0.ffn_gate_exps.weight.
TEST_F(Gguf, ExpertsAsTensorsOfTheirOwnAreAStack) {
  const auto memory = core::Memory::cpu(1);
  for (const DType dtype : {DType::F32, DType::Q8_0})
    for (const bool is_merged : {true, false}) {
      const GgufModel model(std::make_shared<GgufFile>(SmallMoe(dtype).write(folder_.path() / "moe.gguf", is_merged)));
      int stack = 0;
      for (const char* name : {"gate", "up", "down"}) {
        const std::string ours = std::string("layers.0.moe.experts.") + name;
        const Shape shape = model.tensors().at(ours).shape;
        EXPECT_EQ(shape, name == std::string("down") ? (Shape{2, 32, 64}) : (Shape{2, 64, 32}));
        auto entry = core::StateEntry::whole(core::Tensor::zeros(memory, DType::F32, shape));
        model.read(ours, entry);
        for (std::int64_t i = 0; i < shape.numel(); ++i)
          ASSERT_EQ(entry.tensor.data<float>()[i], SmallMoe::value(2 * stack + static_cast<int>(i / 2048), i % 2048))
              << ours << " " << i << " " << is_merged;
        auto part = box(memory, DType::F64, shape, {1, 3, 5}, {1, 4, 6});  // of the second expert
        model.read(ours, part);
        for (std::int64_t i = 0; i < 24; ++i)
          ASSERT_EQ(part.tensor.data<double>()[i], SmallMoe::value(2 * stack + 1, (3 + i / 6) * shape[2] + 5 + i % 6));
        ++stack;
      }
    }
  std::string bytes = read_file(folder_.path() / "moe.gguf");
  bytes.replace(bytes.find("blk.0.ffn_up.1.weight"), 21, "blk.0.ffn_up.7.weight");
  write_file(folder_.path() / "gap.gguf", bytes);
  EXPECT_NE(testing::error_of([&] {
              GgufModel(std::make_shared<GgufFile>(folder_.path() / "gap.gguf"));
            }).find("has no tensor blk.0.ffn_up.1.weight, expected one of shape [64,32]"),
            std::string::npos);
}

TEST_F(Gguf, RopeScalingIsReadAsItIs) {
  const auto error = [&](const GgufKeys& keys, const std::vector<float>& rope) {
    const std::string path = SmallMoe(DType::F32).write(folder_.path() / "rope.gguf", true, keys, rope);
    return testing::error_of([&] { GgufModel(std::make_shared<GgufFile>(path)); });
  };
  const std::vector<float> ones(16, 1.0F);
  EXPECT_EQ(error({{"llama.rope.scaling.type", std::string("linear")}, {"llama.rope.scaling.factor", 1.0F}}, ones), "");
  const auto scaling = [&](const GgufKeys& keys, const std::vector<float>& rope) {
    const std::string path = SmallMoe(DType::F32).write(folder_.path() / "rope.gguf", true, keys, rope);
    return GgufModel(std::make_shared<GgufFile>(path)).model_config().rope_scaling;
  };
  EXPECT_EQ(scaling({{"llama.rope.scaling.type", std::string("linear")}, {"llama.rope.scaling.factor", 1.0F}}, ones),
            nn::RopeScaling{});
  const nn::RopeScaling linear =
      scaling({{"llama.rope.scaling.type", std::string("linear")}, {"llama.rope.scaling.factor", 2.0F}}, {});
  EXPECT_EQ(linear.kind, nn::RopeScaling::Kind::Linear);
  EXPECT_EQ(linear.factor, 2);
  EXPECT_NE(error({{"llama.rope.scaling.type", std::string("longrope")}, {"llama.rope.scaling.factor", 2.0F}}, {})
                .find("llama.rope.scaling.type is longrope, which is not supported"),
            std::string::npos);
  std::vector<float> factors = ones;
  factors[3] = 8;  // of no rule that is known
  const nn::RopeScaling any = scaling({}, factors);
  EXPECT_EQ(any.kind, nn::RopeScaling::Kind::LongRope);
  EXPECT_EQ(any.original_positions, 16);
  EXPECT_EQ(any.long_factors, std::vector<double>(factors.begin(), factors.end()));
  EXPECT_EQ(any.short_factors, any.long_factors);
  EXPECT_EQ(nn::rope_angles(32, 10000, any).factor, 1);
  EXPECT_NE(error({{"llama.rope.scaling.type", std::string("linear")}, {"llama.rope.scaling.factor", 2.0F}}, factors)
                .find("llama.rope.scaling.type is linear beside rope_freqs.weight, expected one of them"),
            std::string::npos);
  factors[2] = 0;
  EXPECT_NE(error({}, factors).find("value 2 of rope_freqs.weight is 0, expected a positive number"),
            std::string::npos);
}

TEST(GgufModelTest, OpensTheTeacher) {
  const auto path = testing::teacher_file();
  if (!path) GTEST_SKIP() << testing::no_teacher;
  const GgufModel model(std::make_shared<GgufFile>(*path));
  const auto& c = model.model_config();
  EXPECT_EQ(c.vocabulary, 49152);
  EXPECT_EQ(c.width, 576);
  EXPECT_EQ(c.num_layers, 30);
  EXPECT_EQ(c.num_heads, 9);
  EXPECT_EQ(c.num_kv_heads, 3);
  EXPECT_EQ(c.mlp_width, 1536);
  EXPECT_EQ(c.rope_base, 100000.0);
  EXPECT_TRUE(c.tied_head);
  EXPECT_EQ(core::name_of(model.tensors().at("layers.29.mlp.down.weight").dtype), "Q4_1");
}

}  // namespace
}  // namespace limbeck::data
