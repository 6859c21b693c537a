// Whole runs under tensor parallelism, or with what ranks share dealt among them, and what they leave behind:
// checkpoints, dumps of gradients and exported models are those of one rank. In float64, so that no near-tie of a
// router can hide or make a difference; with three key/value heads and a vocabulary that two ranks share unevenly.

#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <numeric>
#include <sstream>

#include "data/files/hdf5_file.h"
#include "data/models/safetensors.h"
#include "tests/support/run_limbeck.h"
#include "tests/support/written_out_run.h"

namespace limbeck {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using testing::Outcome;
using testing::RunFolder;

constexpr const char* dense = "num_experts=0 mlp_width=45";
constexpr const char* experts = "num_experts=4";
constexpr const char* sequence_parallel = "--set parallel.sequence_parallel=true";
constexpr const char* mixed = "num_experts=4 dense_layers=[0] mlp_width=45";

/// Trains into `run` until `steps` under `layout`, whose last character is its number of ranks.
void train(const RunFolder& folder, const std::string& feed_forward, const std::string& run, int steps,
           const std::string& layout, const std::string& options = "") {
  std::string settings = " --set model.num_heads=6 --set model.num_kv_heads=3 --set model.head_width=8";
  std::istringstream words(feed_forward);
  for (std::string word; words >> word;)
    settings += fmt::format(" --set model.{}{}", word.starts_with("mlp") ? "" : "moe.", word);
  for (const char* role : {"compute", "master", "gradient", "reduction", "frozen_storage"})
    settings += fmt::format(" --set precision.{}=FLOAT64", role);
  const Outcome outcome =
      folder.limbeck(fmt::format("train tiny.textproto --steps {} --out {} --set parallel.layout={}{} {}", steps, run,
                                 layout, settings, options),
                     layout.back() - '0');
  ASSERT_EQ(outcome.code, 0) << outcome.output;
}

/// The dumps of one rank and of another run: gradients to 1e-9 of the larger of their greatest value and a
/// hundredth of that of all gradients, the rest to 1e-9 of its greatest.
void expect_same_dump(const fs::path& one_rank, const fs::path& other) {
  const auto memory = core::Memory::cpu(1);
  const data::Hdf5File one = data::Hdf5File::open(one_rank);
  const data::Hdf5File cut = data::Hdf5File::open(other);
  ASSERT_EQ(cut.datasets(), one.datasets());
  const auto values = [&](const data::Hdf5File& file, const std::string& path) {
    return core::host_values<double>(file.read_dataset(path, memory, core::DType::F64));
  };
  double greatest_gradient = 0;
  for (const std::string& path : one.datasets())
    if (path.starts_with("/gradients/"))
      for (const double g : values(one, path)) greatest_gradient = std::max(greatest_gradient, std::abs(g));
  ASSERT_GT(greatest_gradient, 0);
  for (const std::string& path : one.datasets()) {
    const std::vector<double> expected = values(one, path), actual = values(cut, path);
    ASSERT_EQ(actual.size(), expected.size()) << path;
    double scale = path.starts_with("/gradients/") ? greatest_gradient / 100 : 0, worst = 0;
    for (std::size_t i = 0; i < expected.size(); ++i) {
      scale = std::max(scale, std::abs(expected[i]));
      worst = std::max(worst, std::abs(actual[i] - expected[i]));
    }
    EXPECT_LE(worst, 1e-9 * scale) << path;
  }
}

void expect_same_export(const fs::path& one_rank, const fs::path& other) {
  const data::SafetensorsFile reference(one_rank), exported(other);
  ASSERT_EQ(exported.tensors().size(), reference.tensors().size());
  const auto values = [](const data::SafetensorsEntry& tensor) {
    std::vector<double> result(static_cast<std::size_t>(tensor.shape.numel()));
    data::SafetensorsFile::read(tensor, 0, tensor.shape.numel(), core::DType::F64,
                                reinterpret_cast<std::byte*>(result.data()));
    return result;
  };
  for (const auto& [name, tensor] : reference.tensors()) {
    ASSERT_TRUE(exported.tensors().contains(name)) << name;
    ASSERT_EQ(exported.tensors().at(name).shape, tensor.shape) << name;
    const std::vector<double> expected = values(tensor), actual = values(exported.tensors().at(name));
    for (std::size_t i = 0; i < expected.size(); ++i)
      ASSERT_NEAR(actual[i], expected[i], 1e-6 * std::abs(expected[i]) + 1e-9) << name;
  }
}

void expect_files_of_one_rank(const std::string& feed_forward) {
  const RunFolder folder("tensor_files");
  const fs::path at = folder.path();
  for (const auto& [run, layout, options] : std::vector<std::tuple<std::string, std::string, std::string>>{
           {"one", "dp1", ""},
           {"cut", "tp2", ""},
           {"shared", "tp2", sequence_parallel},
           {"dealt", "dp2", "--set parallel.shard=PARAMETERS"},
           {"moved", "ep2", "--set parallel.deal_experts_every_steps=1"},
           {"moved_unevenly", "ep3", "--set parallel.deal_experts_every_steps=1"},
           {"stages", "pp2", "--set batch.micro_batches=2"}}) {
    SCOPED_TRACE(run);
    train(folder, feed_forward, run, 3, layout, fmt::format("{} --dump-gradients {}.h5", options, run));
    const Outcome convert = folder.limbeck(fmt::format("convert {0} {0}_hf --dtype float32", run));
    ASSERT_EQ(convert.code, 0) << convert.output;
    if (run == "one") continue;
    expect_same_dump(at / "one.h5", at / (run + ".h5"));
    expect_same_export(at / "one_hf/model.safetensors", at / (run + "_hf/model.safetensors"));
  }
}

TEST(EndToEnd, ATensorParallelDenseRunDumpsAndExportsWhatOneRankDoes) { expect_files_of_one_rank(dense); }
TEST(EndToEnd, ATensorParallelRunWithExpertsDumpsAndExportsWhatOneRankDoes) { expect_files_of_one_rank(experts); }

TEST(EndToEnd, CheckpointsGoFromTensorParallelismToAnyLayoutAndBack) {
  const RunFolder folder("tensor_reshard");
  for (const char* layout : {"dp1", "tp2", "dp2"}) train(folder, mixed, layout, 4, layout);
  struct Way {
    std::string from, to, options;
    std::string run() const { return fmt::format("{}_{}", from, to); }
  };
  const std::vector<Way> ways = {
      {"tp2", "dp1", ""}, {"tp2", "dp2", ""}, {"dp1", "tp2", ""}, {"dp2", "tp2", sequence_parallel}};
  for (const Way& way : ways) {
    fs::copy(folder.path() / way.from, folder.path() / way.run(), fs::copy_options::recursive);
    train(folder, mixed, way.run(), 7, way.to, way.options + " --resume");
  }
  train(folder, mixed, "dp1", 7, "dp1", "--resume");
  const auto expected = folder.metrics("dp1");
  ASSERT_EQ(expected.size(), 7U);
  for (const Way& way : ways) {
    const auto actual = folder.metrics(way.run());
    ASSERT_EQ(actual.size(), 7U);
    for (std::size_t i = 0; i < 7; ++i)
      for (const char* field : {"loss", "grad_norm"}) {
        const double value = expected[i][field];
        EXPECT_NEAR(actual[i][field].get<double>(), value, 1e-8 * value)
            << field << " at step " << i + 1 << ", saved under " << way.from << ", continued under " << way.to;
      }
  }
}

// Optimizer state included, each into the next, round and round.
TEST(EndToEnd, CheckpointsGoBetweenAnyTwoSettingsOfSharing) {
  const RunFolder folder("sharing");
  struct Setting {
    std::string name, layout, options;
  };
  const std::string muon = "--set optimizer.kind=MUON ";
  const std::vector<Setting> settings = {{"plain", "dp1", muon},
                                         {"optimizer", "dp2", muon + "--set parallel.shard=OPTIMIZER"},
                                         {"gradients", "ep2", muon + "--set parallel.shard=GRADIENTS"},
                                         {"parameters", "dp2", muon + "--set parallel.shard=PARAMETERS"},
                                         {"cut", "tp2", muon + "--set parallel.shard=PARAMETERS"}};
  for (const Setting& s : settings) train(folder, mixed, s.name, 4, s.layout, s.options);
  train(folder, mixed, "whole", 7, "dp1", muon);
  const auto expected = folder.metrics("whole");
  for (std::size_t i = 0; i < settings.size(); ++i) {
    const Setting &from = settings[i], &to = settings[(i + 1) % settings.size()];
    train(folder, mixed, from.name, 7, to.layout, to.options + " --resume");
    const auto actual = folder.metrics(from.name);
    ASSERT_EQ(actual.size(), 7U);
    for (std::size_t step = 0; step < 7; ++step)
      for (const char* field : {"loss", "grad_norm"}) {
        const double value = expected[step][field];
        EXPECT_NEAR(actual[step][field].get<double>(), value, 1e-8 * value)
            << field << " at step " << step + 1 << ", saved by " << from.name << ", continued by " << to.name;
      }
  }
}

TEST(EndToEnd, CopiedExpertsChangeWhatIsSentAndNothingElse) {
  const RunFolder folder("copied_experts");
  const std::string copies = "--set parallel.expert_replicas=2";
  train(folder, experts, "plain", 5, "ep2");
  train(folder, experts, "copied", 5, "ep2", copies);
  train(folder, experts, "resumed", 3, "ep2", copies);
  train(folder, experts, "resumed", 5, "ep2", copies + " --resume");
  const auto plain = folder.metrics("plain"), copied = folder.metrics("copied"), resumed = folder.metrics("resumed");
  ASSERT_EQ(copied.size(), 5U);
  ASSERT_EQ(resumed.size(), 5U);
  for (std::size_t i = 0; i < 5; ++i) {
    const auto sent = [&](const char* run) { return testing::whole_lines(folder, run)[i].at("sent_bytes").at("ep"); };
    EXPECT_EQ(sent("copied") == sent("plain"), i == 0) << "step " << i + 1;
    for (const char* field : {"loss", "grad_norm"}) {
      const double value = plain[i][field];
      EXPECT_NEAR(copied[i][field].get<double>(), value, 1e-8 * value) << field << " at step " << i + 1;
      EXPECT_EQ(resumed[i][field], copied[i][field]) << field << " at step " << i + 1;
    }
    EXPECT_EQ(copied[i]["expert_load"], plain[i]["expert_load"]);
  }
}

TEST(EndToEnd, ExpertsThatAreDealtAnewChangeWhoComputesAndNothingElse) {
  const RunFolder folder("dealt_experts");
  // The load of slow weights without a balance loss stays, so that what was counted says what comes.
  const std::string many = "num_experts=8",
                    all_counts =
                        "--set train.log_every_steps=1 --set moe_loss.balance_weight=0 --set optimizer.rate=1e-4 ",
                    dealt = all_counts + "--set parallel.deal_experts_every_steps=2 ";
  train(folder, many, "plain", 6, "ep2", all_counts);
  train(folder, many, "dealt", 6, "ep2", dealt);
  train(folder, many, "resumed", 3, "ep2", dealt);  // between two dealings
  train(folder, many, "resumed", 5, "ep2", dealt + "--resume");
  train(folder, many, "resumed", 6, "dp1", dealt + "--resume");
  const auto plain = folder.metrics("plain"), moved = folder.metrics("dealt"), resumed = folder.metrics("resumed");
  ASSERT_EQ(plain.size(), 6U);
  ASSERT_EQ(moved.size(), 6U);
  ASSERT_EQ(resumed.size(), 6U);
  double fullest_of_plain = 0, fullest_of_moved = 0;
  for (std::size_t i = 0; i < 6; ++i) {
    for (const char* field : {"loss", "grad_norm"}) {
      const double value = plain[i][field];
      EXPECT_NEAR(moved[i][field].get<double>(), value, 1e-8 * value) << field << " at step " << i + 1;
      EXPECT_NEAR(resumed[i][field].get<double>(), value, 1e-8 * value) << field << " at step " << i + 1;
      if (i < 5) {
        EXPECT_EQ(resumed[i][field], moved[i][field]) << field << " at step " << i + 1;
      }
    }
    EXPECT_EQ(moved[i].contains("moved_experts"), i % 2 == 1) << "step " << i + 1;
    for (std::size_t row = 0; row < moved[i]["expert_load"].size(); ++row) {
      const auto load = plain[i]["expert_load"][row]["assignments"].get<std::vector<double>>();
      EXPECT_EQ(moved[i]["expert_load"][row]["assignments"], load) << "step " << i + 1;
      const double first = load[0] + load[1] + load[2] + load[3], all = std::accumulate(load.begin(), load.end(), 0.0);
      const double of_plain = std::max(first, all - first) / all,
                   of_moved = moved[i]["expert_load"][row]["fullest_rank"];
      if (i < 2) {
        EXPECT_NEAR(of_moved, of_plain, 1e-12);
      }
      fullest_of_plain += of_plain;
      fullest_of_moved += of_moved;
    }
  }
  EXPECT_GT(moved[1]["moved_experts"], 0);
  EXPECT_LT(fullest_of_moved, fullest_of_plain);
}

TEST(EndToEnd, WhatCannotBeDealtIsOneLine) {
  const RunFolder folder("sharing_errors");
  const auto error = [&](const std::string& sets, int ranks) {
    const Outcome outcome = folder.limbeck("train tiny.textproto --steps 1 --out run " + sets, ranks);
    EXPECT_EQ(outcome.code, 2) << outcome.output;
    const auto lines = outcome.lines_with("limbeck: error");
    EXPECT_EQ(lines.size(), 1U) << outcome.output;
    return lines.empty() ? outcome.output : lines[0];
  };
  EXPECT_THAT(error("--set parallel.shard_ranks=2", 1),
              HasSubstr("parallel.shard_ranks is given without parallel.shard, expected both or neither"));
  EXPECT_THAT(error("--set parallel.shard=OPTIMIZER --set train.cuda_graph=true", 1),
              HasSubstr("train.cuda_graph is given with parallel.shard, expected false"));
  EXPECT_THAT(error("--set parallel.shard=OPTIMIZER --set parallel.shard_ranks=3", 2),
              HasSubstr("parallel.shard_ranks is 3, expected a number that divides the world's, 2"));
  const std::string copied = "--set parallel.expert_replicas=1 ";
  EXPECT_THAT(
      error(copied + "--set parallel.layout=etp2", 2),
      HasSubstr("parallel.expert_replicas is 1 with parallel.layout etp2, expected 0, or experts that are not cut"));
  EXPECT_THAT(error(copied + "--set precision.quantised_weights=Q8_0", 1),
              HasSubstr("precision.quantised_weights is given with parallel.expert_replicas"));
  EXPECT_FALSE(std::filesystem::exists(folder.path() / "run"));  // nothing is written before
}

}  // namespace
}  // namespace limbeck
