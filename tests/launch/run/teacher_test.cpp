// Real teachers, from their GGUFs, against float64 runs of independent implementations (tests/golden/teacher,
// influence, layer_skip). Skipped where a file cannot be had.

#include <gtest/gtest.h>

#include <cmath>

#include "core/nn/generation.h"
#include "core/nn/student/influence.h"
#include "core/nn/student/student_init.h"
#include "core/ops/linear.h"
#include "core/ops/product.h"
#include "data/files/hdf5_file.h"
#include "launch/run/model_source.h"
#include "tests/support/teacher_file.h"

namespace limbeck {
namespace {

using core::DType;
using core::Tensor;

/// Reads whole datasets of a golden file.
struct Golden {
  data::Hdf5File file;
  explicit Golden(const std::string& name) : file(data::Hdf5File::open(testing::golden_path(name))) {}
  std::vector<double> values(const std::string& path) const {
    const core::Shape shape = file.dataset_info(path).shape;
    std::vector<double> result(static_cast<std::size_t>(shape.numel()));
    file.read(path, DType::F64, result.data(), std::vector<std::int64_t>(static_cast<std::size_t>(shape.rank()), 0),
              shape);
    return result;
  }
  std::vector<std::int32_t> ids(const std::string& path) const {
    const std::vector<double> v = values(path);
    return {v.begin(), v.end()};
  }
};

class TeacherTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto path = testing::teacher_file();
    if (!path) GTEST_SKIP() << testing::no_teacher;
    source_ = launch::open_model(*path);
  }
  void expect_logits_on_texts(const nn::Transformer& model, const Golden& golden) {
    std::set<std::string> texts;
    for (const std::string& path : golden.file.datasets())
      if (path.starts_with("/texts/")) texts.insert(path.substr(0, path.find('/', 7) + 1));
    ASSERT_EQ(texts.size(), 3U);
    for (const std::string& group : texts) expect_logits(model, golden, group, "/columns");
  }
  static void expect_greedy(const nn::Transformer& model, const Golden& golden) {
    for (const char* group : {"/greedy/0/", "/greedy/1/"})
      for (const bool use_cache : {true, false})
        EXPECT_EQ(
            nn::generate(model, golden.ids(std::string(group) + "prompt"), {.max_tokens = 32, .use_cache = use_cache}),
            golden.ids(std::string(group) + "generated"))
            << group << (use_cache ? "with" : "without") << " the cache";
  }
  std::unique_ptr<nn::Transformer> load(const core::StateReader& reader, const nn::ModelConfig& config,
                                        bool as_kept = false) {
    auto model = std::make_unique<nn::Transformer>(
        config, nn::ModelOptions{.memory = memory_, .frozen = true, .as_kept = as_kept});
    model->load(reader);
    return model;
  }
  /// At every position the argmax, logsumexp and some columns of the logits; `max_error` of them.
  void expect_logits(const nn::Transformer& model, const Golden& golden, const std::string& group,
                     const std::string& columns_path) {
    const std::vector<std::int32_t> ids = golden.ids(group + "tokens");
    core::Tape off(core::Tape::Mode::Off);
    const nn::Batch batch = nn::one_sequence(memory_, ids, 0);
    const Tensor hidden = model.forward(off, model.pass(batch)).hidden.value;
    const Tensor logits = core::linear(off, core::constant(hidden), model.head()).value;
    const auto argmax = golden.values(group + "argmax");
    const auto gap = golden.values(group + "gap");
    const auto logsumexp = golden.values(group + "logsumexp");
    const auto columns = golden.values(columns_path);
    const auto expected = golden.values(group + "logits");
    const std::int64_t vocabulary = model.config().vocabulary;
    double worst = 0;
    for (std::size_t t = 0; t < ids.size(); ++t) {
      const float* row = logits.data<float>() + static_cast<std::int64_t>(t) * vocabulary;
      const auto best = std::max_element(row, row + vocabulary) - row;
      if (gap[t] > 1e-3) {
        EXPECT_EQ(best, std::llround(argmax[t])) << "position " << t;
      }
      double sum = 0;
      for (std::int64_t v = 0; v < vocabulary; ++v) sum += std::exp(static_cast<double>(row[v]) - row[best]);
      worst = std::max(worst, std::abs(std::log(sum) + row[best] - logsumexp[t]));
      for (std::size_t c = 0; c < columns.size(); ++c)
        worst = std::max(
            worst, std::abs(static_cast<double>(row[std::llround(columns[c])]) - expected[t * columns.size() + c]));
    }
    EXPECT_LE(worst, 1e-3);
    RecordProperty("max_logit_error", fmt::format("{}", worst));
    fmt::print("{} max |difference of logits| {:.2e}\n", group, worst);
  }

  core::MemoryPtr memory_ = core::Memory::cpu(1);
  launch::ModelSource source_;
};

TEST_F(TeacherTest, LogitsOnThreeTexts) {
  expect_logits_on_texts(*load(*source_.reader, source_.config), Golden("teacher/smollm2_logits.h5"));
}

// Products widen the blocks of the mapped file: the same values, in a tenth of the memory.
TEST_F(TeacherTest, LogitsOfWeightsInTheFilesBlocks) {
  const auto model = load(*source_.reader, source_.config, /*as_kept=*/true);
  EXPECT_LT(memory_->statistics().used_bytes, std::int64_t{10} << 20U);  // q and k, whose rows have another order
  expect_logits(*model, Golden("teacher/smollm2_logits.h5"), "/texts/prose/", "/columns");
}

// A part of a matrix is lent where it is whole blocks; what the model computes with is what it would have read.
TEST_F(TeacherTest, LendsPartsOfWholeBlocks) {
  const auto lent = [&](const std::string& name, std::vector<std::int64_t> offset, const core::Shape& box) {
    core::StateEntry entry{source_.reader->tensors().at(name).shape, std::move(offset),
                           Tensor::empty(memory_, DType::F32, box)};
    const auto tensor = source_.reader->lend(name, entry, memory_);
    if (!tensor) return false;
    EXPECT_EQ(tensor->shape(), box);
    source_.reader->read(name, entry);
    const Tensor values = core::expanded(*tensor);
    EXPECT_TRUE(std::equal(values.data<float>(), values.data<float>() + values.numel(), entry.tensor.data<float>()))
        << name;
    return true;
  };
  EXPECT_TRUE(lent("layers.3.mlp.gate.weight", {768, 0}, {768, 576}));
  EXPECT_TRUE(lent("layers.3.mlp.down.weight", {0, 768}, {576, 768}));
  EXPECT_TRUE(lent("layers.3.attention.q.weight", {192, 0}, {192, 576}));
  EXPECT_TRUE(lent("embed.weight", {40000, 0}, {9152, 576}));
  EXPECT_FALSE(lent("layers.3.mlp.down.weight", {0, 16}, {576, 768}));
  EXPECT_FALSE(lent("layers.3.mlp.down.weight", {0, 0}, {576, 16}));
}

TEST_F(TeacherTest, GreedyGenerationWithAndWithoutCache) {
  expect_greedy(*load(*source_.reader, source_.config), Golden("teacher/smollm2_logits.h5"));
}

TEST_F(TeacherTest, BlockInfluenceOfEveryLayer) {
  const auto model = load(*source_.reader, source_.config);
  const Golden golden("influence/smollm2_influence.h5");
  const std::vector<std::int32_t> ids = golden.ids("/tokens");
  const std::vector<double> expected = golden.values("/influence");
  std::vector<double> mean(expected.size(), 0);
  const nn::Communicators alone = nn::single_communicators();
  for (std::size_t row = 0; row < 2; ++row) {
    const nn::Batch batch = nn::one_sequence(memory_, std::span(ids).subspan(row * 256, 256), 0);
    const std::vector<double> influence = nn::block_influence(*model, batch, *alone.batch);
    ASSERT_EQ(influence.size(), expected.size());
    for (std::size_t i = 0; i < mean.size(); ++i) mean[i] += influence[i] / 2;
  }
  for (std::size_t i = 0; i < mean.size(); ++i) EXPECT_NEAR(mean[i], expected[i], 1e-4) << "layer " << i;
}

TEST_F(TeacherTest, StudentOfTheLayersOfGreatestInfluence) {
  const Golden golden("layer_skip/smollm2_layer_skip.h5");
  const auto listed = golden.values("/layers");
  const std::vector<std::int64_t> layers(listed.begin(), listed.end());
  const nn::LayerSkip skipped(*source_.reader, source_.config.num_layers, layers);
  nn::ModelConfig dense = source_.config;
  dense.num_layers = static_cast<std::int64_t>(layers.size());
  expect_logits(*load(skipped, dense), golden, "/", "/columns");
  const nn::Upcycled upcycled(skipped, dense, {.slices = 4, .experts = 8, .experts_per_token = 4}, true, 1);
  ASSERT_TRUE(upcycled.is_exact());
  expect_logits(*load(upcycled, upcycled.model_config()), golden, "/", "/columns");
}

struct Fetched {
  const char *name, *file, *golden;
};

/// Models of other families (launch/fetch_teacher.sh NAME).
class FetchedTeacherTest : public TeacherTest, public ::testing::WithParamInterface<Fetched> {
 protected:
  void SetUp() override {
    const auto path = testing::fetched_file(GetParam().file);
    if (!path) GTEST_SKIP() << "SKIPPED: no downloads/" << GetParam().file << " (launch/fetch_teacher.sh)";
    source_ = launch::open_model(*path);
  }
};

TEST_P(FetchedTeacherTest, LogitsAndTokensOnThreeTexts) {
  const Golden golden(GetParam().golden);
  expect_logits_on_texts(*load(*source_.reader, source_.config), golden);
  for (const char* text : {"prose", "code", "mixed"}) {
    const std::string group = fmt::format("/texts/{}/", text);
    std::string bytes;
    for (const std::int32_t byte : golden.ids(group + "text")) bytes.push_back(static_cast<char>(byte));
    std::vector<std::int32_t> ids = source_.tokenizer->encode(bytes);
    if (const auto start = source_.tokenizer->start_of_text_id()) ids.insert(ids.begin(), *start);
    EXPECT_EQ(ids, golden.ids(group + "tokens")) << text;
  }
}

TEST_P(FetchedTeacherTest, GreedyGenerationWithAndWithoutCache) {
  expect_greedy(*load(*source_.reader, source_.config), Golden(GetParam().golden));
}

INSTANTIATE_TEST_SUITE_P(Models, FetchedTeacherTest,
                         ::testing::Values(Fetched{"Gemma3", "gemma-3-270m.Q4_K_M.gguf", "teacher/gemma3_logits.h5"},
                                           Fetched{"QwenCoder", "Qwen2.5-Coder-0.5B-Instruct.Q4_K_M.gguf",
                                                   "teacher/qwen_coder_logits.h5"}),
                         [](const auto& of) { return std::string(of.param.name); });

}  // namespace
}  // namespace limbeck
