// Students with fewer experts, without them, or narrower than their teacher, against PyTorch, where all that is cut is
// cut by plain indexing (tests/golden/starts/make_starts.py); and what an exact start promises.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

#include "core/error.h"
#include "core/nn/student/activity.h"
#include "core/nn/student/expert_measures.h"
#include "core/nn/student/expert_start.h"
#include "core/nn/student/narrower.h"
#include "core/ops/head_loss.h"
#include "core/slice.h"
#include "launch/run/batch.h"
#include "launch/run/rank.h"
#include "tests/support/golden_model.h"
#include "tests/support/thread_ranks.h"

namespace limbeck {
namespace {

using core::DType;
using core::Tensor;
using testing::GoldenModel;

std::vector<std::int64_t> up_to(std::int64_t n) {
  std::vector<std::int64_t> all(static_cast<std::size_t>(n));
  std::iota(all.begin(), all.end(), 0);
  return all;
}

void expect_near(const std::vector<double>& values, const std::vector<double>& expected, double tolerance = 1e-10) {
  ASSERT_EQ(values.size(), expected.size());
  double greatest = 0;
  for (const double v : expected) greatest = std::max(greatest, std::abs(v));
  for (std::size_t i = 0; i < values.size(); ++i)
    ASSERT_NEAR(values[i], expected[i], tolerance * greatest) << "at " << i;
}

/// A model of the reader's weights, in float64, whole or cut over the ranks.
std::unique_ptr<nn::Transformer> loaded(const core::StateReader& reader, const nn::ModelConfig& config,
                                        nn::ModelOptions options = {
                                            .memory = core::Memory::cpu(1), .dtype = DType::F64, .frozen = true}) {
  auto model = std::make_unique<nn::Transformer>(config, std::move(options));
  model->load(reader);
  return model;
}

/// Of the tokens that have a target.
std::vector<double> logits_of(const nn::Transformer& model, const data::TokenBatch& samples) {
  core::Tape off(core::Tape::Mode::Off);
  const nn::Batch batch = launch::make_batch(model.memory(), samples, 0, samples.num_sequences);
  const Tensor all = core::logits_of(model.forward(off, model.pass(batch)).hidden.value, model.head().value);
  std::vector<double> logits;
  for (std::size_t t = 0; t < samples.targets.size(); ++t) {
    if (samples.targets[t] < 0) continue;
    const std::vector<double> row = core::host_values<double>(all.rows(static_cast<std::int64_t>(t), 1));
    logits.insert(logits.end(), row.begin(), row.end());
  }
  return logits;
}

/// Named tensors at hand.
class Weights : public core::StateReader {
 public:
  explicit Weights(const core::StateReader& source) {
    for (const auto& [name, info] : source.tensors()) {
      core::StateEntry entry = core::StateEntry::whole(Tensor::empty(core::Memory::cpu(1), DType::F64, info.shape));
      source.read(name, entry);
      values_.emplace(name, entry.tensor);
      tensors_[name] = info;
    }
  }
  /// The row of an index of the first dimension.
  std::span<double> row(const std::string& name, std::int64_t index) {
    Tensor& t = values_.at(name);
    const std::int64_t size = t.shape().row_size();
    return {t.mutable_data<double>() + index * size, static_cast<std::size_t>(size)};
  }
  void copy_row(const std::string& name, std::int64_t from, std::int64_t to) {
    std::ranges::copy(row(name, from), row(name, to).begin());
  }
  std::string source() const override { return "weights"; }
  const std::map<std::string, core::StateInfo>& tensors() const override { return tensors_; }

 private:
  void fill(const std::string& name, const core::StateInfo&, core::StateEntry& entry) const override {
    const Tensor& whole = values_.at(name);
    const core::Shape box = entry.tensor.shape();
    for (std::int64_t i = 0; i < box.numel(); ++i) {
      std::int64_t rest = i, at = 0, stride = 1;
      for (int d = box.rank(); d-- > 0; rest /= box[d], stride *= whole.shape()[d])
        at += (entry.offset[static_cast<std::size_t>(d)] + rest % box[d]) * stride;
      core::dispatch_float("weights", entry.tensor.dtype(), [&]<class T>() {
        entry.tensor.mutable_host<T>()[i] = static_cast<T>(whole.data<double>()[at]);
      });
    }
  }

  std::map<std::string, Tensor> values_;
  std::map<std::string, core::StateInfo> tensors_;
};

class ExpertStarts : public ::testing::Test {
 protected:
  GoldenModel golden_{"../starts/experts.h5"};
  nn::ModelConfig config_ = golden_.config();
  data::TokenBatch samples_ = golden_.samples();
  const nn::Communicators alone_ = nn::single_communicators();

  std::vector<nn::ExpertUse> use_of(nn::Transformer& model) const {
    const nn::Batch batch = launch::make_batch(model.memory(), samples_, 0, samples_.num_sequences);
    return nn::expert_use(model, batch, *alone_.batch, up_to(config_.num_layers));
  }
  std::vector<nn::ExpertUse> use_of(const core::StateReader& weights) const {
    return use_of(*loaded(weights, config_));
  }
  void expect_use(const std::vector<nn::ExpertUse>& use) const {
    ASSERT_EQ(std::ssize(use), config_.num_layers);
    for (std::size_t layer = 0; layer < use.size(); ++layer) {
      const nn::ExpertUse& of_layer = use[layer];
      const std::string group = fmt::format("/use/{}/", layer);
      EXPECT_EQ(of_layer.tokens, 51);
      EXPECT_EQ(of_layer.load, golden_.values(group + "load"));
      expect_near(of_layer.weight, golden_.values(group + "weight"));
      std::vector<double> norms, alike;
      for (const std::int64_t e : up_to(8)) norms.push_back(of_layer.routed_norm(e));
      expect_near(norms, golden_.values(group + "routed_norm"));
      for (const std::int64_t e : up_to(64)) alike.push_back(of_layer.similarity(e / 8, e % 8));
      expect_near(alike, golden_.values(group + "similarity"));
    }
  }
  static std::vector<double> norms_of(const nn::ExpertUse& use) {
    std::vector<double> norms;
    for (const std::int64_t e : up_to(use.num_experts())) norms.push_back(use.routed_norm(e));
    return norms;
  }
  static std::vector<std::vector<nn::ExpertGroup>> pruned(const std::vector<nn::ExpertUse>& use, std::int64_t keep) {
    std::vector<std::vector<nn::ExpertGroup>> groups;
    for (const nn::ExpertUse& of_layer : use) groups.push_back(nn::pruned_experts(norms_of(of_layer), keep));
    return groups;
  }
  static std::vector<std::vector<nn::ExpertGroup>> merged(const std::vector<nn::ExpertUse>& use, std::int64_t keep) {
    std::vector<std::vector<nn::ExpertGroup>> groups;
    for (const nn::ExpertUse& of_layer : use) groups.push_back(nn::merged_experts(of_layer, keep));
    return groups;
  }
  static std::vector<nn::DenseMixture> mixtures(const std::vector<nn::ExpertUse>& use, std::int64_t keep) {
    std::vector<nn::DenseMixture> mixtures;
    for (const nn::ExpertUse& of_layer : use) mixtures.push_back(nn::dense_mixture(of_layer, keep, false));
    return mixtures;
  }
};

TEST_F(ExpertStarts, UseOfExpertsIsThatOfPyTorchUnderEveryLayout) {
  const std::vector<std::pair<const char*, int>> layouts = {{"dp1", 1}, {"dp2", 2}, {"tp2", 2}, {"dp2tp2", 4}};
  for (const auto& [layout, ranks] : layouts)
    testing::run_ranks(ranks, [&, layout = layout](testing::RankWorld& world) {
      SCOPED_TRACE(layout);
      launch::Rank rank(world.comm, layout, 1);
      const auto model = loaded(golden_.parameters(), config_, rank.frozen_copy(DType::F64));
      const core::Slice mine = core::slice_of(samples_.num_sequences, rank.mesh().dp().rank(), rank.mesh().dp().size());
      const nn::Batch batch = launch::make_batch(rank.memory(), samples_, mine.first, mine.count);
      expect_use(nn::expert_use(*model, batch, *rank.comms().batch, up_to(config_.num_layers)));
    });
}

TEST_F(ExpertStarts, LogitsOfWhatIsLeftAreThoseOfPyTorch) {
  const auto weights = golden_.parameters();
  const std::vector<nn::ExpertUse> use = use_of(weights);
  const nn::ModelConfig fewer = nn::fewer_experts_config(config_, 5, 0, "teacher");
  expect_near(logits_of(*loaded(nn::FewerExperts(weights, pruned(use, 5)), fewer), samples_),
              golden_.values("/pruned/logits"));
  expect_near(logits_of(*loaded(nn::FewerExperts(weights, merged(use, 5)), fewer), samples_),
              golden_.values("/merged/logits"));
  const nn::DenseFromExperts dense(weights, config_, mixtures(use, 3));
  expect_near(logits_of(*loaded(dense, nn::dense_from_experts_config(config_, 3, "teacher")), samples_),
              golden_.values("/dense/logits"));
}

/// Every part of a model that ranks hold is the whole one's.
void expect_read_in_parts(const core::StateReader& reader, const nn::ModelConfig& config) {
  const auto whole = loaded(reader, config);
  for (const char* layout : {"tp2ep2", "ep2etp2", "tp4"})
    testing::run_ranks(4, [&](testing::RankWorld& world) {
      launch::Rank rank(world.comm, layout, 1);
      const auto model = loaded(reader, config, rank.sharded(DType::F64));
      for (const core::Parameter* p : model->parameters()) {
        const double* all = whole->parameter(p->name).value.data<double>();
        core::for_each_element(*p, [&](std::int64_t i, std::int64_t global) {
          ASSERT_EQ(p->value.data<double>()[i], all[global]) << p->name;
        });
      }
    });
}

TEST_F(ExpertStarts, AreReadInParts) {
  const auto weights = golden_.parameters();
  const std::vector<nn::ExpertUse> use = use_of(weights);
  expect_read_in_parts(nn::FewerExperts(weights, merged(use, 6)), nn::fewer_experts_config(config_, 6, 0, "teacher"));
  expect_read_in_parts(nn::DenseFromExperts(weights, config_, mixtures(use, 3)),
                       nn::dense_from_experts_config(config_, 3, "teacher"));
}

// What no token has chosen goes without a trace, for the weights of those that are left are of these alone.
TEST_F(ExpertStarts, WithoutExpertsThatAreIdleThereIsNoDifference) {
  const GoldenModel golden("moe_idle_expert.h5");
  const auto weights = golden.parameters();
  samples_ = golden.samples();
  config_ = golden.config();
  const std::vector<nn::ExpertUse> use = use_of(weights);
  const std::vector<double> before = logits_of(*loaded(weights, config_), samples_);
  for (const auto& groups : {pruned(use, 7), merged(use, 7)}) {
    const nn::FewerExperts fewer(weights, groups);
    expect_near(logits_of(*loaded(fewer, nn::fewer_experts_config(config_, 7, 0, "teacher")), samples_), before, 1e-13);
  }
  // Which of the second layer's four idle experts goes does not matter, one that is busy does.
  std::vector<std::vector<nn::ExpertGroup>> groups = pruned(use, 7);
  EXPECT_THAT(groups[0], ::testing::SizeIs(7));
  std::erase_if(groups[0], [](const nn::ExpertGroup& group) { return group.front().expert == 0; });
  groups[0].push_back({{.expert = 4}});
  const nn::FewerExperts wrong(weights, groups);
  const auto other = logits_of(*loaded(wrong, nn::fewer_experts_config(config_, 7, 0, "teacher")), samples_);
  EXPECT_NE(other, before);
}

// Experts that are pairs of equal ones, of which every token chooses both: merged, each token has one.
TEST_F(ExpertStarts, MergingEqualExpertsChangesNothing) {
  Weights weights(golden_.parameters());
  for (const std::int64_t layer : up_to(config_.num_layers))
    for (const char* part : {"router.weight", "experts.gate", "experts.up", "experts.down"})
      for (std::int64_t e = 0; e < 8; e += 2) weights.copy_row(fmt::format("layers.{}.moe.{}", layer, part), e, e + 1);
  std::vector<nn::ExpertUse> use = use_of(weights);
  for (nn::ExpertUse& of_layer : use) of_layer.load = {3, 1, 5, 2, 4, 1, 6, 2};  // of equal ones one leads
  const std::vector<std::vector<nn::ExpertGroup>> groups = merged(use, 4);
  for (const auto& of_layer : groups)
    for (const nn::ExpertGroup& group : of_layer) {
      ASSERT_EQ(group.size(), 2U);
      EXPECT_EQ(group[0].expert / 2, group[1].expert / 2);
    }
  const nn::FewerExperts fewer(weights, groups);
  expect_near(logits_of(*loaded(fewer, nn::fewer_experts_config(config_, 4, 1, "teacher")), samples_),
              logits_of(*loaded(weights, config_), samples_), 1e-13);
}

TEST_F(ExpertStarts, ADenseFeedForwardOfEqualExpertsIsTheMixture) {
  Weights weights(golden_.parameters());
  for (const std::int64_t layer : up_to(config_.num_layers))
    for (const char* part : {"experts.gate", "experts.up", "experts.down"})
      for (std::int64_t e = 1; e < 8; ++e) weights.copy_row(fmt::format("layers.{}.moe.{}", layer, part), 0, e);
  const nn::DenseFromExperts dense(weights, config_, mixtures(use_of(weights), 3));
  expect_near(logits_of(*loaded(dense, nn::dense_from_experts_config(config_, 3, "teacher")), samples_),
              logits_of(*loaded(weights, config_), samples_), 1e-13);
}

TEST_F(ExpertStarts, SayWhatTheyCannotDo) {
  using ::testing::HasSubstr;
  using ::testing::ThrowsMessage;
  const auto fewer = [&](const nn::ModelConfig& config, std::int64_t keep, std::int64_t chosen) {
    return [=] { nn::fewer_experts_config(config, keep, chosen, "T"); };
  };
  const auto dense = [&](const nn::ModelConfig& config, std::int64_t keep) {
    return [=] { nn::dense_from_experts_config(config, keep, "T"); };
  };
  EXPECT_THAT(fewer(config_, 9, 0), ThrowsMessage<core::UsageError>(HasSubstr("keep is 9, expected 1 to the 8")));
  EXPECT_THAT(fewer(config_, 4, 5), ThrowsMessage<core::UsageError>(HasSubstr("expected 1 to keep = 4")));
  nn::ModelConfig grouped = config_;
  grouped.moe.num_groups = 2;
  EXPECT_THAT(fewer(grouped, 4, 0), ThrowsMessage<core::UsageError>(HasSubstr("are of 2 groups")));
  nn::ModelConfig none = config_;
  none.moe = {};
  EXPECT_THAT(fewer(none, 4, 0), ThrowsMessage<core::UsageError>(HasSubstr("T has no experts")));
  nn::ModelConfig leading = config_;
  leading.moe.dense_layers = {0};
  leading.mlp_width = 50;
  EXPECT_THAT(dense(leading, 2),
              ThrowsMessage<core::UsageError>(HasSubstr("make feed-forwards of width 40, expected 50")));
  leading.mlp_width = 40;
  EXPECT_EQ(nn::dense_from_experts_config(leading, 2, "T").num_moe_layers(), 0);
}

class Narrowing : public ::testing::Test {
 protected:
  GoldenModel golden_{"../starts/greedy.h5"};
  nn::ModelConfig config_ = golden_.config();
  data::TokenBatch samples_ = golden_.samples();
};

TEST_F(Narrowing, ActivityIsThatOfPyTorchUnderEveryLayout) {
  const std::vector<std::pair<const char*, int>> layouts = {
      {"dp1", 1}, {"dp2", 2}, {"tp2", 2}, {"dp2tp2", 4}, {"tp4", 4}};
  for (const auto& [layout, ranks] : layouts)
    testing::run_ranks(ranks, [&, layout = layout](testing::RankWorld& world) {
      SCOPED_TRACE(layout);
      launch::Rank rank(world.comm, layout, 1);
      const auto model = loaded(golden_.parameters(), config_, rank.frozen_copy(DType::F64));
      const core::Slice mine = core::slice_of(samples_.num_sequences, rank.mesh().dp().rank(), rank.mesh().dp().size());
      const nn::Batch batch = launch::make_batch(rank.memory(), samples_, mine.first, mine.count);
      const nn::Activity found = nn::activity_of(*model, batch, *rank.comms().batch, up_to(config_.num_layers));
      expect_near(found.channels, golden_.values("/activity/channels"));
      for (std::size_t layer = 0; layer < 7; ++layer) {
        expect_near(found.neurons.at(layer), golden_.values(fmt::format("/activity/{}/neurons", layer)));
        expect_near(found.kv_heads.at(layer), golden_.values(fmt::format("/activity/{}/kv_heads", layer)));
      }
    });
}

TEST_F(Narrowing, LogitsOfTheMostActiveAreThoseOfPyTorch) {
  const auto weights = golden_.parameters();
  const auto whole = loaded(weights, config_);
  const nn::Batch batch = launch::make_batch(whole->memory(), samples_, 0, samples_.num_sequences);
  const nn::Communicators alone = nn::single_communicators();
  const nn::Activity activity = nn::activity_of(*whole, batch, *alone.batch, up_to(config_.num_layers));
  const nn::Narrower narrow(weights, config_, activity.most_active(25, 1, 18));
  EXPECT_EQ(narrow.model_config(), nn::narrower_config(config_, 25, 1, 18, "teacher"));
  expect_near(logits_of(*loaded(narrow, narrow.model_config()), samples_), golden_.values("/narrower/logits"));
  expect_read_in_parts(narrow, narrow.model_config());
}

// Neurons that give nothing, heads that are not read, and channels that nothing writes.
TEST_F(Narrowing, WithoutPartsThatAreZeroThereIsNoDifference) {
  Weights weights(golden_.parameters());
  const auto zero_columns = [&](const std::string& name, std::int64_t rows,
                                std::initializer_list<std::int64_t> columns) {
    for (std::int64_t i = 0; i < rows; ++i)
      for (const std::int64_t j : columns) weights.row(name, i)[static_cast<std::size_t>(j)] = 0;
  };
  const auto zero_row = [&](const std::string& name, std::int64_t i) { std::ranges::fill(weights.row(name, i), 0.0); };
  zero_columns("embed.weight", 97, {3, 20});
  for (std::int64_t layer = 0; layer < 7; ++layer) {
    const std::string prefix = fmt::format("layers.{}.", layer);
    for (const std::int64_t c : {3, 20})
      for (const char* name : {"attention.o.weight", "mlp.down.weight"}) zero_row(prefix + name, c);
    for (const std::int64_t f : {0, 7, 39}) zero_row(prefix + "mlp.up.weight", f);
    for (std::int64_t i = 6 * (layer % 2); i < 6 * (layer % 2) + 6; ++i) zero_row(prefix + "attention.v.weight", i);
  }
  const auto whole = loaded(weights, config_);
  const nn::Batch batch = launch::make_batch(whole->memory(), samples_, 0, samples_.num_sequences);
  const nn::Communicators alone = nn::single_communicators();
  const nn::Activity activity = nn::activity_of(*whole, batch, *alone.batch, up_to(config_.num_layers));
  const std::vector<double> before = logits_of(*whole, samples_);
  const auto without = [&](std::int64_t neurons, std::int64_t heads, std::int64_t channels) {
    const nn::Narrower narrow(weights, config_, activity.most_active(neurons, heads, channels));
    return logits_of(*loaded(narrow, narrow.model_config()), samples_);
  };
  expect_near(without(37, 1, 22), before, 1e-12);
  expect_near(without(37, 0, 0), before, 1e-13);
  EXPECT_NE(without(36, 0, 0), before);
}

TEST_F(Narrowing, SaysWhatItCannotDo) {
  using ::testing::HasSubstr;
  using ::testing::ThrowsMessage;
  const auto narrower = [](const nn::ModelConfig& config, std::int64_t neurons, std::int64_t channels) {
    return [=] { nn::narrower_config(config, neurons, 0, channels, "T"); };
  };
  EXPECT_THAT(narrower(config_, 41, 0),
              ThrowsMessage<core::UsageError>(HasSubstr("mlp_width is 41, expected at most")));
  nn::ModelConfig with_mean = config_;
  with_mean.norm_kind = nn::NormKind::Layer;
  EXPECT_THAT(narrower(with_mean, 0, 18), ThrowsMessage<core::UsageError>(HasSubstr("take a mean over all channels")));
  EXPECT_THAT(narrower(GoldenModel("../starts/experts.h5").config(), 8, 0),
              ThrowsMessage<core::UsageError>(HasSubstr("has no dense feed-forwards")));
}

}  // namespace
}  // namespace limbeck
