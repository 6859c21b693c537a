// Adapters: loss and gradients of A and B are those of PyTorch under every layout, the start is the base model, and
// what a reader merges is W + alpha/r B A.

#include "core/nn/adapters.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <nlohmann/json.hpp>
#include <set>

#include "data/models/peft.h"
#include "launch/run/step.h"
#include "optim/objectives.h"
#include "tests/support/golden_model.h"
#include "tests/support/kept_state.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/thread_ranks.h"

namespace limbeck {
namespace {

using core::DType;
using core::Tensor;
using testing::GoldenModel;

const std::vector<std::string> everything{"*"};

/// The factors of adapters.h5 by the names that Adapters gives them.
class GoldenFactors : public core::StateReader {
 public:
  explicit GoldenFactors(const std::string& model) {
    const GoldenModel golden("adapters.h5");
    for (const char which : {'a', 'b'}) {
      const testing::Hdf5Group group = golden.parameters(fmt::format("/{}/adapters/{}", model, which));
      for (const auto& [name, info] : group.tensors()) {
        const std::string own = nn::adapter_name(name, which);
        tensors_[own] = info;
        core::StateEntry entry = core::StateEntry::whole(Tensor::empty(core::Memory::cpu(1), DType::F64, info.shape));
        group.read(name, entry);
        values_[own] = testing::values_of(entry.tensor);
        gradients_[own] = golden.values(data::hdf5_path(fmt::format("/{}/gradients/{}", model, which), name));
      }
    }
  }
  std::string source() const override { return "adapters.h5"; }
  const std::map<std::string, core::StateInfo>& tensors() const override { return tensors_; }
  const std::map<std::string, std::vector<double>>& values() const { return values_; }
  const std::map<std::string, std::vector<double>>& gradients() const { return gradients_; }

 private:
  void fill(const std::string& name, const core::StateInfo& info, core::StateEntry& entry) const override {
    core::Parameter box;
    box.global_shape = info.shape;
    box.value = entry.tensor;
    for (int d = 0; d < info.shape.rank(); ++d)
      box.placement.push_back(
          {"box", core::AxisRole::Sharded, d, entry.offset[static_cast<std::size_t>(d)], entry.tensor.shape()[d]});
    core::dispatch_float("golden", entry.tensor.dtype(), [&]<class T>() {
      core::for_each_element(box, [&](std::int64_t i, std::int64_t global) {
        entry.tensor.mutable_host<T>()[i] = static_cast<T>(values_.at(name)[static_cast<std::size_t>(global)]);
      });
    });
  }

  std::map<std::string, core::StateInfo> tensors_;
  std::map<std::string, std::vector<double>> values_, gradients_;
};

nn::AdapterOptions golden_options() {
  const GoldenModel golden("adapters.h5");
  return {.rank = std::llround(golden.number("rank", "/dense")),
          .alpha = golden.number("alpha", "/dense"),
          .targets = everything};
}

struct Layout {
  const char* name;
  int ranks;
  bool sequence_parallel = false;
};

class AdapterLayouts : public ::testing::TestWithParam<Layout> {};

TEST_P(AdapterLayouts, LossAndGradientsAreThoseOfPyTorch) {
  const Layout layout = GetParam();
  testing::run_ranks(layout.ranks, [&](testing::RankWorld& world) {
    launch::Rank rank(world.comm, layout.name, 1, layout.sequence_parallel);
    for (const char* name : {"dense", "moe_options"})
      for (const launch::StepOptions& how :
           {launch::StepOptions{}, launch::StepOptions{.micro_batches = 3, .tensor_chunks = 2, .recompute = true}}) {
        SCOPED_TRACE(fmt::format("{} {} micro-batches", name, how.micro_batches));
        const GoldenModel golden(std::string(name) + ".h5");
        const GoldenFactors factors(name);
        const nn::ModelOptions options = rank.sharded(DType::F64);
        nn::Transformer model(golden.config(), options);
        model.load(golden.parameters());
        nn::Adapters adapters(model, golden_options(), DType::F64, options.place);
        adapters.load(factors);
        parallel::GradientSync sync(adapters.parameters(), rank.mesh(), rank.memory(), DType::F64, 4096);
        launch::StepOptions step = how;
        step.router = golden.router();
        const optim::LanguageModelling objective;
        const launch::StepResult result =
            launch::forward_backward(rank, {model, nullptr, objective}, golden.samples(), step, sync);
        const double expected = GoldenModel("adapters.h5").value(fmt::format("/{}/loss", name));
        EXPECT_NEAR(result.loss(), expected, 1e-11 * expected);
        EXPECT_EQ(factors.tensors().size(), adapters.parameters().size());
        EXPECT_LE(testing::worst_gradient_error(adapters.parameters(), factors.gradients()), 1e-10);
        for (const core::Parameter* p : model.parameters()) EXPECT_TRUE(p->is_frozen()) << p->name;
      }
  });
}

INSTANTIATE_TEST_SUITE_P(Threads, AdapterLayouts,
                         ::testing::Values(Layout{"dp1", 1}, Layout{"dp2", 2}, Layout{"ep2", 2}, Layout{"tp2", 2},
                                           Layout{"tp2dp2", 4}, Layout{"tp2ep2", 4}, Layout{"tp2ep2", 2},
                                           Layout{"tp2", 2, true}, Layout{"tp2ep2", 2, true}),
                         [](const auto& layout) {
                           return fmt::format("{}_on_{}{}", layout.param.name, layout.param.ranks,
                                              layout.param.sequence_parallel ? "_sequence" : "");
                         });

std::vector<double> logits_of(nn::Transformer& model, const data::TokenBatch& samples) {
  core::Tape off(core::Tape::Mode::Off);
  const nn::Batch batch = launch::make_batch(model.memory(), samples, 0, samples.num_sequences);
  return testing::values_of(model.forward(off, model.pass(batch)).hidden.value);
}

TEST(Adapters, TheStartIsTheBaseModelInAnyLayout) {
  const GoldenModel golden("moe_options.h5");
  std::map<std::string, std::vector<double>> whole;
  for (const auto& [layout, ranks] : {std::pair("dp1", 1), {"tp2ep2", 2}})
    testing::run_ranks(ranks, [&, layout = layout, ranks = ranks](testing::RankWorld& world) {
      launch::Rank rank(world.comm, layout, 1);
      const nn::ModelOptions options = rank.sharded(DType::F32);
      nn::Transformer model(golden.config(), options);
      model.load(golden.parameters());
      const std::vector<double> before = ranks == 1 ? logits_of(model, golden.samples()) : std::vector<double>();
      nn::Adapters adapters(model, {.rank = 4, .alpha = 8, .targets = everything}, DType::F32, options.place);
      adapters.init_random(7);
      if (ranks == 1) {
        EXPECT_EQ(logits_of(model, golden.samples()), before);
        for (const core::Parameter* p : adapters.parameters()) whole[p->name] = testing::values_of(p->value);
        return;
      }
      for (const core::Parameter* p : adapters.parameters()) {
        const std::vector<double> mine = testing::values_of(p->value);
        const std::vector<double>& all = whole.at(p->name);
        const auto in = static_cast<double>(p->global_shape[p->global_shape.rank() - 1]);
        double squares = 0;
        for (const double x : all) squares += x * x;
        if (p->name.ends_with("/b"))
          EXPECT_EQ(squares, 0) << p->name;
        else
          EXPECT_NEAR(std::sqrt(squares / static_cast<double>(all.size()) * 3 * in), 1, 0.35) << p->name;
        core::for_each_element(*p, [&](std::int64_t i, std::int64_t global) {
          ASSERT_EQ(mine[static_cast<std::size_t>(i)], all[static_cast<std::size_t>(global)]) << p->name;
        });
      }
    });
}

TEST(Adapters, TheMergedReaderGivesTheModelThatWasTrainedWithThem) {
  for (const char* name : {"dense", "moe_options"}) {
    const GoldenModel golden(std::string(name) + ".h5");
    const auto memory = core::Memory::cpu(1);
    const nn::AdapterOptions options = golden_options();
    const auto base = std::make_shared<testing::Hdf5Group>(golden.parameters());
    const auto factors = std::make_shared<GoldenFactors>(name);
    nn::Transformer with(golden.config(), {.memory = memory, .dtype = DType::F64});
    with.load(*base);
    nn::Adapters adapters(with, options, DType::F64);
    adapters.load(*factors);
    const nn::MergedAdapters reader(base, factors, options.scale());
    nn::Transformer merged(golden.config(), {.memory = memory, .dtype = DType::F64, .frozen = true});
    merged.load(reader);
    const std::vector<double> expected = logits_of(with, golden.samples()), found = logits_of(merged, golden.samples());
    ASSERT_EQ(found.size(), expected.size());
    for (std::size_t i = 0; i < found.size(); ++i) ASSERT_NEAR(found[i], expected[i], 1e-10) << i;

    // A box of it, in float32, is that of the whole.
    const std::string weight = "layers.0.attention.o.weight";
    const std::vector<double> whole = testing::values_of(merged.parameter(weight).value);
    const core::Shape shape = reader.tensors().at(weight).shape;
    core::StateEntry box{shape, {2, 5}, Tensor::empty(memory, DType::F32, {3, 4}), true};
    reader.read(weight, box);
    for (std::int64_t r = 0; r < 3; ++r)
      for (std::int64_t c = 0; c < 4; ++c)
        EXPECT_EQ(box.tensor.host<float>()[r * 4 + c],
                  static_cast<float>(whole[static_cast<std::size_t>((2 + r) * shape[1] + 5 + c)]));
  }
}

/// A layer of Mamba-2, of one group of heads or two, before one of attention.
nn::ModelConfig config_with_states(std::int64_t num_groups) {
  nn::ModelConfig config = GoldenModel("dense.h5").config();
  config.mamba = {
      .num_heads = 4, .head_width = 12, .state_width = 5, .num_groups = num_groups, .attention_layers = {1}};
  return config;
}

// With G the gradient of W + s B A where that is the weight, A has s B^T G and B has s G A^T.
TEST(Adapters, OfMamba2HaveTheGradientsOfMergedMatrices) {
  const GoldenModel golden("dense.h5");
  const optim::LanguageModelling objective;
  const nn::AdapterOptions of_mamba{.rank = 3, .alpha = 6, .targets = {"*.mamba.*"}};
  for (const std::int64_t num_groups : {1, 2}) {
    const nn::ModelConfig config = config_with_states(num_groups);
    /// A model and its factors, the same in any layout.
    struct Adapted {
      nn::Transformer model;
      nn::Adapters adapters;
      Adapted(const nn::ModelConfig& of, const nn::ModelOptions& options, const nn::AdapterOptions& how)
          : model(of, options), adapters(model, how, DType::F64, options.place) {
        model.init_random(3);
        for (core::Parameter* p : adapters.parameters()) core::init_normal(*p, 0.2, 7);
      }
    };
    double loss = 0;
    std::map<std::string, std::vector<double>> expected;
    testing::run_ranks(1, [&](testing::RankWorld& world) {
      launch::Rank rank(world.comm, "dp1", 1);
      Adapted adapted(config, rank.sharded(DType::F64), of_mamba);
      std::map<std::string, std::vector<double>> factors;
      for (const core::Parameter* p : adapted.adapters.parameters()) {
        factors[p->name] = testing::values_of(p->value);
        expected[p->name].resize(factors[p->name].size());
      }
      nn::Transformer merged(config, rank.sharded(DType::F64));
      merged.init_random(3);
      /// f(W, A, B, places in them) for each product of the sum B A.
      const auto for_each_term = [&](const auto& f) {
        for (core::Parameter* w : merged.parameters()) {
          const std::string a = nn::adapter_name(w->name, 'a'), b = nn::adapter_name(w->name, 'b');
          if (!factors.contains(a)) continue;
          const auto out = static_cast<std::size_t>(w->global_shape[0]),
                     in = static_cast<std::size_t>(w->global_shape[1]);
          for (std::size_t o = 0; o < out; ++o)
            for (std::size_t i = 0; i < in; ++i)
              for (std::size_t k = 0; k < 3; ++k) f(*w, a, b, o * in + i, k * in + i, o * 3 + k);
        }
      };
      for_each_term([&](core::Parameter& w, const std::string& a, const std::string& b, std::size_t of_w,
                        std::size_t of_a, std::size_t of_b) {
        w.value.mutable_data<double>()[of_w] += of_mamba.scale() * factors[b][of_b] * factors[a][of_a];
      });
      parallel::GradientSync sync(merged.parameters(), rank.mesh(), rank.memory(), DType::F64);
      loss = launch::forward_backward(rank, {merged, nullptr, objective}, golden.samples(), {}, sync).loss();
      for_each_term([&](core::Parameter& w, const std::string& a, const std::string& b, std::size_t of_w,
                        std::size_t of_a, std::size_t of_b) {
        const double g = of_mamba.scale() * w.slot->grad.data<double>()[of_w];
        expected[a][of_a] += factors[b][of_b] * g;
        expected[b][of_b] += factors[a][of_a] * g;
      });
    });
    ASSERT_EQ(expected.size(), 12U) << "of z, x, B, C, dt and o";
    for (const Layout& layout :
         {Layout{"dp1", 1}, Layout{"dp2", 2}, Layout{"tp2", 2}, Layout{"tp2", 2, true}, Layout{"tp2dp2", 4}}) {
      SCOPED_TRACE(fmt::format("{} of {} groups", layout.name, num_groups));
      testing::run_ranks(layout.ranks, [&](testing::RankWorld& world) {
        launch::Rank rank(world.comm, layout.name, 1, layout.sequence_parallel);
        Adapted adapted(config, rank.sharded(DType::F64), of_mamba);
        parallel::GradientSync sync(adapted.adapters.parameters(), rank.mesh(), rank.memory(), DType::F64, 4096);
        const launch::StepResult result = launch::forward_backward(
            rank, {adapted.model, nullptr, objective}, golden.samples(), {.recompute = layout.sequence_parallel}, sync);
        EXPECT_NEAR(result.loss(), loss, 1e-12 * loss);
        EXPECT_LE(testing::worst_gradient_error(adapted.adapters.parameters(), expected), 1e-10);
      });
    }
  }
}

// Rows of in_proj have no module of their own, and of what peft knows as a Mamba it takes no out_proj.
TEST(Adapters, OfMamba2AreWrittenWherePeftTakesThem) {
  const auto modules = [](const nn::ModelConfig& config, const char* target) {
    nn::Transformer model(config, {.memory = core::Memory::cpu(1)});
    nn::Adapters adapters(model, {.rank = 2, .targets = {target}}, DType::F32);
    adapters.init_random(1);
    const testing::TemporaryFolder folder;
    data::export_peft(testing::KeptState(adapters.state_dict()), config, folder.path(), {.rank = 2, .alpha = 16});
    const auto settings = nlohmann::json::parse(testing::read_file(folder / "adapter_config.json"));
    return settings["target_modules"].get<std::vector<std::string>>();
  };
  const auto refusal = [](const char* words) {
    return ::testing::ThrowsMessage<core::Error>(::testing::HasSubstr(words));
  };
  const nn::ModelConfig hybrid = config_with_states(2);
  EXPECT_THAT(modules(hybrid, "*.mamba.o.*"), ::testing::ElementsAre("model.layers.0.mamba.out_proj"));
  EXPECT_THAT([&] { modules(hybrid, "*.mamba.B.*"); },
              refusal("layers.0.mamba.B.weight is stored in another form by Granite 4 (hybrid) "
                      "(model.layers.0.mamba.in_proj.weight)"));
  nn::ModelConfig alone = hybrid;
  alone.mamba.attention_layers.clear();
  alone.feed_forward = false;
  EXPECT_THAT([&] { modules(alone, "*.mamba.o.*"); },
              refusal("peft takes no adapter of backbone.layers.0.mixer.out_proj.weight in a model of Mamba-2"));
}

std::string error_of(const std::function<void()>& act) {
  try {
    act();
  } catch (const core::UsageError& error) {
    return error.what();
  }
  return "";
}

TEST(Adapters, WhatHasNoneIsRefusedByName) {
  const GoldenModel golden("moe_options.h5");
  const auto make = [&](std::vector<std::string> targets) {
    nn::Transformer model(golden.config(), {.memory = core::Memory::cpu(1)});
    const nn::Adapters adapters(model, {.targets = std::move(targets)}, DType::F32);
  };
  EXPECT_EQ(error_of([&] {
              make({"*.attention.*", "*.q_proj"});
            }),
            "adapters.targets[1]: the pattern *.q_proj matches no parameter, expected one such as "
            "layers.0.attention.q.weight");
  EXPECT_EQ(
      error_of([&] { make({"*.router.*"}); }),
      "adapters.targets[0]: layers.1.moe.router.weight has no adapter, expected matrices of attention, Mamba-2 and "
      "feed-forwards, such as layers.0.attention.q.weight");
  EXPECT_EQ(error_of([&] { make({"*"}); }), "");
  const auto of_states = [&](const char* target) {
    nn::Transformer model(config_with_states(1), {.memory = core::Memory::cpu(1)});
    const nn::Adapters adapters(model, {.targets = {target}}, DType::F32);
  };
  EXPECT_EQ(error_of([&] { of_states("*.conv_x.weight"); }),
            "adapters.targets[0]: layers.0.mamba.conv_x.weight has no adapter, expected matrices of attention, Mamba-2 "
            "and feed-forwards, such as layers.0.mamba.z.weight");
  testing::run_ranks(2, [&](testing::RankWorld& world) {
    launch::Rank rank(world.comm, "tp2etp2", 1);
    const nn::ModelOptions options = rank.sharded(DType::F32);
    nn::Transformer model(golden.config(), options);
    EXPECT_EQ(
        error_of([&] { nn::Adapters(model, {.targets = {"*.experts.*"}}, DType::F32, options.place); }),
        "adapters.targets: layers.1.moe.experts.gate is cut within its experts (etp), expected whole experts there");
  });
}

}  // namespace
}  // namespace limbeck
