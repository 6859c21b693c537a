// Distillation from a teacher of other tokens: loss, figures and gradients are PyTorch's, whose tokenizers and spans
// are written independently (tests/golden/models), one under any layout.

#include <gmock/gmock.h>

#include <cmath>
#include <numbers>

#include "data/tokenizers/tokenizer_bpe.h"
#include "data/tokenizers/unicode.h"
#include "kernels/spans.h"
#include "launch/run/step.h"
#include "optim/objectives.h"
#include "optim/sorted_distillation.h"
#include "tests/support/golden_model.h"
#include "tests/support/step_layouts.h"
#include "tests/support/thread_ranks.h"

namespace limbeck {
namespace {

using core::DType;
using ::testing::ElementsAre;
using testing::GoldenModel;
using testing::StepLayout;

using Merges = std::vector<std::pair<std::string, std::string>>;
const Merges of_student = {{"t", "h"}, {"i", "n"}, {"e", "n"}, {"th", "e"}, {"a", "t"}, {"\xc3", "\xa9"}},
             of_teacher = {{"h", "e"}, {"n", " "}, {"t", "he"}, {"t", "e"}, {"e", " "}, {"the", "n "}};

/// These bytes and merges, an end of text and, for a teacher, what begins one.
std::shared_ptr<const data::Tokenizer> tokenizer(const std::string& characters, const Merges& merges, bool has_start) {
  data::BpeDescription d;
  for (const char c : characters) d.tokens.push_back(data::alphabet_of_bytes(std::string(1, c)));
  for (const auto& [left, right] : merges) {
    d.merges.push_back(data::alphabet_of_bytes(left) + " " + data::alphabet_of_bytes(right));
    d.tokens.push_back(data::alphabet_of_bytes(left + right));
  }
  for (const char* name : {"<end>", "<begin>"}) {
    if (!has_start && d.tokens.back() == "<end>") break;
    d.added.push_back({.id = static_cast<std::int32_t>(d.tokens.size()), .special = true});
    d.tokens.emplace_back(name);
  }
  d.eos = d.added[0].id;
  d.end_of_text = d.added[0].id;
  if (has_start) d.start_of_text = d.added[1].id;
  return std::make_shared<data::BpeTokenizer>(std::move(d), "test");
}

std::string characters(const GoldenModel& golden) {
  std::string all;
  for (const double c : golden.values("/characters")) all += static_cast<char>(static_cast<int>(c));
  return all;
}

/// With pieces: a part begins its document where the file says so.
data::TokenBatch samples_of(const GoldenModel& golden) {
  data::TokenBatch samples = golden.samples();
  const std::vector<double> begins = golden.values("/begins");
  const auto n = std::ssize(samples.tokens);
  for (std::int64_t t = 0; t < n; ++t)
    if (const auto i = static_cast<std::size_t>(t); samples.positions[i] == 0)
      samples.pieces.push_back(
          {.document = std::ssize(samples.pieces), .position = begins[i] != 0 ? 0 : 7, .first = t});
  return samples;
}

launch::TokenizerBridge bridge_of(const GoldenModel& golden, const launch::Rank& rank, DType dtype) {
  auto teacher = std::make_unique<nn::Transformer>(golden.config("/teacher"), rank.frozen_copy(dtype));
  teacher->load(golden.parameters("/teacher/parameters"));
  const std::string all = characters(golden);
  return {tokenizer(all, of_student, false), tokenizer(all, of_teacher, true), std::move(teacher)};
}

void expect_spans(const GoldenModel& golden, const std::optional<launch::SpanResult>& found, double tolerance) {
  ASSERT_TRUE(found);
  EXPECT_EQ(static_cast<double>(found->spans), golden.value("/loss/spans"));
  EXPECT_NEAR(found->kl, golden.value("/loss/kl"), tolerance);
  EXPECT_NEAR(found->share, golden.value("/loss/share"), 1e-12);
  EXPECT_NEAR(found->bits_per_byte, golden.value("/loss/bits_per_byte"), tolerance);
  EXPECT_NEAR(found->teacher_bits_per_byte, golden.value("/loss/teacher_bits_per_byte"), tolerance);
}

void expect_sorted(const GoldenModel& golden, const std::optional<launch::SortedResult>& found, double tolerance) {
  ASSERT_TRUE(found);
  EXPECT_EQ(static_cast<double>(found->pairs), golden.value("/loss/spans"));
  EXPECT_NEAR(found->distance, golden.value("/uld/loss/distance"), tolerance);
  EXPECT_NEAR(found->share, golden.value("/uld/loss/share"), 1e-12);
}

class BridgeLayouts : public ::testing::TestWithParam<StepLayout> {
 protected:
  /// The golden student of each dtype on every rank.
  template <class F>
  static void for_each_rank(F&& f) {
    const GoldenModel golden("bridge.h5");
    const StepLayout& layout = GetParam();
    for (const DType dtype : {DType::F64, DType::F32})
      testing::run_ranks(layout.ranks, [&](testing::RankWorld& world) {
        launch::Rank rank(world.comm, layout.name, 1, layout.sequence_parallel);
        nn::Transformer student(golden.config(), rank.sharded(dtype));
        student.load(golden.parameters());
        const launch::TokenizerBridge bridge = bridge_of(golden, rank, dtype);
        parallel::GradientSync sync(student.parameters(), rank.mesh(), rank.memory(), dtype, 4096);
        f(golden, layout, dtype, rank, student, bridge, sync);
      });
  }
};

TEST_P(BridgeLayouts, LossAndGradientsAreThoseOfPyTorch) {
  for_each_rank([](const GoldenModel& golden, const StepLayout& layout, DType dtype, launch::Rank& rank,
                   nn::Transformer& student, const launch::TokenizerBridge& bridge, parallel::GradientSync& sync) {
    const optim::LanguageModelling objective;
    const launch::StepResult result = launch::forward_backward(
        rank, {.student = student, .teacher = nullptr, .objective = objective, .bridge = &bridge}, samples_of(golden),
        {.micro_batches = layout.micro_batches,
         .router = golden.router(),
         .recompute = layout.recompute,
         .bridge_ce_weight = golden.number("alpha")},
        sync);
    const double tolerance = dtype == DType::F64 ? 1e-11 : 3e-5;
    EXPECT_NEAR(result.loss(), golden.value("/loss/total"), tolerance);
    EXPECT_EQ(result.head.tokens, golden.number("num_valid"));
    EXPECT_NEAR(result.head.ce / result.head.tokens, golden.value("/loss/ce"), tolerance);
    expect_spans(golden, result.spans, tolerance);
    EXPECT_LE(golden.worst_gradient_error(student.parameters()), dtype == DType::F64 ? 1e-7 : 1e-4);

    launch::HeldOut held_out(rank, {.samples = samples_of(golden)}, nullptr, -1, nullptr, &bridge);
    const launch::Evaluation measured = held_out.evaluate(student).held_out;
    expect_spans(golden, measured.spans, tolerance);
    EXPECT_NEAR(measured.cross_entropy, golden.value("/loss/ce"), tolerance);
    EXPECT_FALSE(measured.has_teacher());
  });
}

TEST_P(BridgeLayouts, SortedDistributionsAreThoseOfPyTorch) {
  for_each_rank([](const GoldenModel& golden, const StepLayout& layout, DType dtype, launch::Rank& rank,
                   nn::Transformer& student, const launch::TokenizerBridge& bridge, parallel::GradientSync& sync) {
    const optim::SortedDistillation objective(golden.number("alpha"));
    const launch::StepResult result = launch::forward_backward(
        rank, {.student = student, .teacher = nullptr, .objective = objective, .bridge = &bridge}, samples_of(golden),
        {.micro_batches = layout.micro_batches,
         .router = golden.router(),
         .recompute = layout.recompute,
         .bridge = launch::Bridge::Uld,
         .bridge_ce_weight = golden.number("alpha")},
        sync);
    const double tolerance = dtype == DType::F64 ? 1e-11 : 3e-5;
    EXPECT_NEAR(result.loss(), golden.value("/uld/loss/total"), tolerance);
    EXPECT_NEAR(result.head.ce / result.head.tokens, golden.value("/loss/ce"), tolerance);
    EXPECT_FALSE(result.spans);
    expect_sorted(golden, result.sorted, tolerance);
    EXPECT_LE(golden.worst_gradient_error(student.parameters(), "/uld/gradients"), dtype == DType::F64 ? 1e-7 : 1e-4);

    launch::HeldOut held_out(rank, {.samples = samples_of(golden), .is_sorted = true}, nullptr, -1, nullptr, &bridge);
    const launch::Evaluation measured = held_out.evaluate(student).held_out;
    expect_spans(golden, measured.spans, tolerance);
    expect_sorted(golden, measured.sorted, tolerance);
  });
}

INSTANTIATE_TEST_SUITE_P(Threads, BridgeLayouts,
                         ::testing::Values(StepLayout{"dp1", 1}, StepLayout{"dp1", 1, 3},
                                           StepLayout{"dp1", 1, 2, false, true}, StepLayout{"dp2", 2},
                                           StepLayout{"dp2", 2, 2}, StepLayout{"dp4", 4, 3}, StepLayout{"tp2", 2},
                                           StepLayout{"tp2", 2, 2, true}, StepLayout{"ep2", 2},
                                           StepLayout{"ep2", 2, 2, false, true}, StepLayout{"tp2ep2", 4}),
                         testing::name_of_layout);

/// In memory that the host cannot read, as a GPU's is: the same bits, and no more reads than of text.
TEST(Bridge, StepsNeedNoHand) {
  const GoldenModel golden("bridge.h5");
  const optim::LanguageModelling by_spans;
  const optim::SortedDistillation sorted(0.5);
  for (const auto& [kind, objective] : std::vector<std::pair<launch::Bridge, const core::Objective*>>{
           {launch::Bridge::Spans, &by_spans}, {launch::Bridge::Uld, &sorted}}) {
    std::vector<std::vector<double>> gradients;
    std::vector<double> losses;
    for (const bool is_hidden : {false, true})
      testing::run_ranks(1, [&, kind = kind, objective = objective](testing::RankWorld& world) {
        launch::Rank rank(world.comm, "dp1", 1, false, is_hidden ? core::Memory::hidden_cpu(1) : core::Memory::cpu(1));
        nn::Transformer student(golden.config(), rank.sharded(DType::F32));
        student.load(golden.parameters());
        const launch::TokenizerBridge bridge = bridge_of(golden, rank, DType::F32);
        parallel::GradientSync sync(student.parameters(), rank.mesh(), rank.memory(), DType::F32);
        const std::int64_t before = rank.memory()->host_reads;
        const launch::StepResult result = launch::forward_backward(
            rank, {.student = student, .teacher = nullptr, .objective = *objective, .bridge = &bridge},
            samples_of(golden), {.micro_batches = 2, .bridge = kind}, sync);
        EXPECT_EQ(is_hidden ? rank.memory()->host_reads - before : 2, 2);  // losses, and the experts' load
        losses.push_back(result.loss());
        for (const core::Parameter* p : student.parameters())
          gradients.push_back(testing::values_of(p->slot->grad.in(rank.host_memory())));
      });
    EXPECT_EQ(losses[0], losses[1]);
    const std::size_t each = gradients.size() / 2;
    for (std::size_t i = 0; i < each; ++i) EXPECT_EQ(gradients[i], gradients[each + i]);
  }
}

/// With one tokenizer each token is a span, and of the teacher itself there is nothing to learn. What begins within a
/// document and goes on behind the sequence has its first token and its last as no spans.
TEST(Bridge, OfTheTeacherItselfIsNothing) {
  const GoldenModel golden("bridge.h5");
  testing::run_ranks(1, [&](testing::RankWorld& world) {
    launch::Rank rank(world.comm, "dp1", 1);
    const auto make = [&] {
      auto model = std::make_unique<nn::Transformer>(golden.config(), rank.frozen_copy(DType::F64));
      model->load(golden.parameters());
      return model;
    };
    const auto text = tokenizer(characters(golden), of_student, false);
    const launch::TokenizerBridge bridge(text, text, make());
    data::TokenBatch samples;
    samples.num_sequences = 1;
    samples.sequence_length = 8;
    samples.tokens = text->encode("the thin tea");
    samples.tokens.resize(8);
    samples.targets.assign(samples.tokens.begin() + 1, samples.tokens.end());
    samples.targets.push_back(text->encode("e").front());
    samples.documents.assign(8, 0);
    samples.positions = {0, 1, 2, 3, 4, 5, 6, 7};
    const launch::BridgedBatch read = bridge.read(rank.memory(), samples);
    const std::size_t spans = read.host.size() / kernels::num_span_places;
    EXPECT_EQ(spans, 7U);  // 9 tokens with the last target, without the first and the last
    EXPECT_EQ(core::host_values<std::int32_t>(read.batch.tokens).size(), 9U);

    launch::HeldOut held_out(rank, {.samples = samples, .is_sorted = true}, nullptr, -1, nullptr, &bridge);
    const auto student = make();
    const launch::Evaluation measured = held_out.evaluate(*student).held_out;
    EXPECT_EQ(measured.spans->spans, 7);
    EXPECT_NEAR(measured.spans->kl, 0, 1e-15);
    EXPECT_NEAR(measured.spans->bits_per_byte, measured.spans->teacher_bits_per_byte, 1e-12);
    EXPECT_EQ(measured.sorted->pairs, 7);
    EXPECT_NEAR(measured.sorted->distance, 0, 1e-12);
  });
}

/// Text of two tokens of which nothing predicts the first and the last may go on: what is learnt is cross-entropy
/// alone, also where a rank has no text at all.
TEST(Bridge, WithoutSpansIsCrossEntropy) {
  const GoldenModel golden("bridge.h5");
  const auto text = tokenizer(characters(golden), of_student, false);
  data::TokenBatch samples;
  samples.num_sequences = 1;
  samples.sequence_length = 2;
  samples.tokens = {text->encode("t").front(), text->encode("a").front()};
  samples.targets = {samples.tokens[1], -1};
  samples.documents = {0, 0};
  samples.positions = {0, 1};
  const optim::LanguageModelling plain;
  const optim::SortedDistillation sorted(0.25);
  for (const int ranks : {1, 2})
    testing::run_ranks(ranks, [&](testing::RankWorld& world) {
      launch::Rank rank(world.comm, fmt::format("dp{}", ranks), 1);
      nn::Transformer student(golden.config(), rank.sharded(DType::F64));
      student.load(golden.parameters());
      const launch::TokenizerBridge bridge = bridge_of(golden, rank, DType::F64);
      parallel::GradientSync sync(student.parameters(), rank.mesh(), rank.memory(), DType::F64);
      const auto run = [&](const core::Objective& objective, const launch::TokenizerBridge* over, launch::Bridge kind) {
        const launch::StepResult result = launch::forward_backward(
            rank, {.student = student, .teacher = nullptr, .objective = objective, .bridge = over}, samples,
            {.bridge = kind, .bridge_ce_weight = 0.25}, sync);
        std::vector<double> gradients;
        for (core::Parameter* p : student.parameters())
          for (const double value : testing::values_of(p->slot->grad)) gradients.push_back(value);
        return std::pair(result, gradients);
      };
      const auto alone = run(plain, nullptr, launch::Bridge::Spans), spans = run(plain, &bridge, launch::Bridge::Spans),
                 pairs = run(sorted, &bridge, launch::Bridge::Uld);
      EXPECT_EQ(spans.first.spans->spans, 0);
      EXPECT_EQ(spans.first.spans->kl, 0);
      EXPECT_EQ(spans.first.spans->bits_per_byte, 0);
      EXPECT_EQ(pairs.first.sorted->pairs, 0);
      EXPECT_EQ(pairs.first.sorted->distance, 0);
      for (const auto* bridged : {&spans, &pairs}) {
        EXPECT_NEAR(bridged->first.loss(), 0.25 * alone.first.loss(), 1e-12);
        ASSERT_EQ(bridged->second.size(), alone.second.size());
        for (std::size_t i = 0; i < alone.second.size(); ++i)
          ASSERT_NEAR(bridged->second[i], 0.25 * alone.second[i], 1e-12);
      }
    });
}

class BridgedText : public ::testing::Test {
 protected:
  struct Options {
    bool ends = true, begins = true;
    std::int64_t positions = 1000;
    std::vector<std::int32_t> masked = {};
    std::size_t first = 0, last_left_out = 0;  // tokens that the sequence does not have
  };
  /// The spans, where a teacher of bytes reads a sequence of a tokenizer of merges.
  std::vector<std::vector<std::int64_t>> spans(const std::string& text, const Options& options) {
    std::vector<std::int32_t> ids = own_->encode(text);
    ids = {ids.begin() + static_cast<std::ptrdiff_t>(options.first),
           ids.end() - static_cast<std::ptrdiff_t>(options.last_left_out)};
    if (options.ends) ids.push_back(own_->end_of_text_id());
    data::TokenBatch samples;
    samples.num_sequences = 1;
    samples.sequence_length = std::ssize(ids);
    samples.tokens = ids;
    samples.targets.assign(ids.begin() + 1, ids.end());
    samples.targets.push_back(-1);
    for (const std::int32_t place : options.masked) samples.targets[static_cast<std::size_t>(place)] = -1;
    samples.documents.assign(ids.size(), 0);
    samples.positions.assign(ids.size(), 0);
    samples.pieces.push_back({.position = options.begins ? 0 : 5, .first = 0, .count = std::ssize(ids)});
    std::vector<std::vector<std::int64_t>> found;
    testing::run_ranks(1, [&](testing::RankWorld& world) {
      launch::Rank rank(world.comm, "dp1", 1);
      nn::ModelConfig config = GoldenModel("bridge.h5").config("/teacher");
      config.vocabulary = 257;
      config.max_positions = options.positions;
      const launch::TokenizerBridge bridge(own_, data::byte_tokenizer(),
                                           std::make_unique<nn::Transformer>(config, rank.frozen_copy(DType::F32)));
      const launch::BridgedBatch read = bridge.read(rank.memory(), samples);
      tokens_ = core::host_values<std::int32_t>(read.batch.tokens);
      targets_ = core::host_values<std::int32_t>(read.batch.targets);
      offsets_ = read.batch.offsets_on_host;
      for (std::size_t i = 0; i < read.host.size(); i += kernels::num_span_places)
        found.emplace_back(read.host.begin() + static_cast<std::ptrdiff_t>(i),
                           read.host.begin() + static_cast<std::ptrdiff_t>(i + kernels::num_span_places));
    });
    return found;
  }

  const std::shared_ptr<const data::Tokenizer> own_ = tokenizer("abcthe \xc3\xa9", {{"t", "h"}, {"th", "e"}}, false);
  std::vector<std::int32_t> tokens_, targets_;
  std::vector<std::int64_t> offsets_;
};

using Span = std::vector<std::int64_t>;

TEST_F(BridgedText, EndsWithATokenOfNoBytes) {
  EXPECT_THAT(spans("athe", {}), ElementsAre(Span{0, 1, 0, 3, 3}, Span{1, 1, 3, 1, 0}));
  EXPECT_THAT(tokens_, ElementsAre('a', 't', 'h', 'e', 256));
  EXPECT_THAT(targets_, ElementsAre('t', 'h', 'e', 256, -1));
  EXPECT_THAT(spans("athe", {.ends = false}), ElementsAre());  // cut: the last span might have been another
  EXPECT_THAT(spans("athea", {.ends = false}), ElementsAre(Span{0, 1, 0, 3, 3}));
}

TEST_F(BridgedText, IsReadInPartsOfTheTeachersPositions) {
  EXPECT_THAT(spans("abathea", {.positions = 3}),
              ElementsAre(Span{0, 1, 0, 1, 1}, Span{1, 1, 1, 1, 1}, Span{4, 1, 6, 1, 0}));
  EXPECT_THAT(offsets_, ElementsAre(0, 3, 6, 8));
  EXPECT_THAT(targets_, ElementsAre('b', 'a', -1, 'h', 'e', -1, 256, -1));
}

TEST_F(BridgedText, MaskedTokensAreInNoSpan) {
  EXPECT_THAT(spans("abca", {.masked = {1}}),
              ElementsAre(Span{0, 1, 0, 1, 1}, Span{2, 1, 2, 1, 1}, Span{3, 1, 3, 1, 0}));
}

/// Half of a character is no text: the part's other tokens have their spans.
TEST_F(BridgedText, IsCutToWholeCharacters) {
  EXPECT_THAT(spans("\xc3\xa9"
                    "abc\xc3\xa9",
                    {.ends = false, .begins = false, .first = 1, .last_left_out = 1}),
              ElementsAre(Span{1, 1, 0, 1, 1}));
  EXPECT_THAT(tokens_, ElementsAre('a', 'b', 'c'));
  EXPECT_THAT(spans("\xc3\xa9"
                    "abc\xc3\xa9",
                    {.ends = true, .begins = false, .first = 1}),
              ElementsAre(Span{1, 1, 0, 1, 1}, Span{2, 1, 1, 1, 1}, Span{3, 1, 2, 1, 1}, Span{4, 1, 3, 1, 1},
                          Span{5, 1, 4, 1, 0}));
}

}  // namespace
}  // namespace limbeck
