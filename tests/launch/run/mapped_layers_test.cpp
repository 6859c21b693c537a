// Weights that stay in a model directory's files, and layers that come from the disk as they are wanted.
#include "launch/run/mapped_layers.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <set>

#include "data/files/mapped_file.h"
#include "launch/run/available_memory.h"
#include "tests/support/family_reference.h"

namespace limbeck {
namespace {

using core::DType;
using core::Tensor;
using data::HuggingFaceModel;
using testing::FamilyReference;

TEST(LentWeights, OfADirectoryAreThoseThatLieThereInTheirOrder) {
  struct Case {
    const char* family;
    std::set<std::string> not_lent;  // ends of names
  };
  for (const Case& c : {Case{"llama", {}}, Case{"phi3", {}}, Case{"gemma3", {}},
                        Case{"gpt2", {"q.weight", "k.weight", "v.weight", "o.weight", "up.weight", "down.weight"}},
                        Case{"mixtral", {"experts.gate", "experts.up", "experts.down"}}}) {
    SCOPED_TRACE(c.family);
    const FamilyReference reference(c.family);
    const HuggingFaceModel model(reference.folder());
    const auto memory = core::Memory::cpu(1);
    for (const auto& [name, info] : model.tensors()) {
      const core::StateEntry entry = core::StateEntry::whole(Tensor::zeros(memory, DType::F32, info.shape));
      const auto lent = model.lend(name, entry, memory);
      const bool is_read =
          std::ranges::any_of(c.not_lent, [&, name = name](const std::string& end) { return name.ends_with(end); });
      ASSERT_EQ(lent.has_value(), !is_read) << name;
      if (!lent) continue;
      EXPECT_NE(data::mapped_file_at(lent->host_raw()), nullptr) << name;
      core::StateEntry read = entry;
      model.read(name, read);
      EXPECT_EQ(testing::values_of(lent->to(DType::F32)), testing::values_of(read.tensor)) << name;
    }
    const auto logits = [&](bool as_kept) {
      return testing::logits_of(model, model.model_config(), reference.samples(), DType::F32, as_kept);
    };
    EXPECT_EQ(logits(true), logits(false));
  }
}

TEST(LentWeights, OfPartOfAMatrixAreItsRowsAlone) {
  const FamilyReference reference("llama");
  const HuggingFaceModel model(reference.folder());
  const auto memory = core::Memory::cpu(1);
  const std::string name = "layers.1.mlp.down.weight";
  const core::Shape whole = model.tensors().at(name).shape;
  const auto lent = [&](std::vector<std::int64_t> offset, const core::Shape& box) {
    return model.lend(name, {whole, std::move(offset), Tensor::zeros(memory, DType::F32, box)}, memory);
  };
  const auto rows = lent({3, 0}, {2, whole[1]});
  ASSERT_TRUE(rows);
  core::StateEntry read{whole, {3, 0}, Tensor::zeros(memory, DType::F32, {2, whole[1]})};
  model.read(name, read);
  EXPECT_EQ(testing::values_of(*rows), testing::values_of(read.tensor));
  EXPECT_FALSE(lent({0, 1}, {2, whole[1] - 1}));
  EXPECT_TRUE(lent({2, 1}, {1, 3}));  // of one row
}

/// Bytes of a file that this process has mapped and in its memory.
std::int64_t resident_bytes(const std::filesystem::path& file) {
  std::ifstream maps("/proc/self/smaps");
  std::int64_t kibibytes = 0;
  bool is_of_file = false;
  for (std::string line; std::getline(maps, line);) {
    if (line.find(' ') < line.find(':')) is_of_file = line.ends_with(file.string());  // a mapping's own line
    if (is_of_file && line.starts_with("Rss:")) kibibytes += std::stoll(line.substr(4));
  }
  return kibibytes * 1024;
}

TEST(MappedLayers, ComeAndGoWithoutAChange) {
  const FamilyReference reference("llama");
  const HuggingFaceModel reader(reference.folder());
  const auto memory = core::Memory::cpu(1);
  nn::Transformer model(reader.model_config(), {.memory = memory, .frozen = true, .as_kept = true});
  model.load(reader);
  parallel::FileWaits waits;
  const launch::MappedLayers layers(model, &waits);
  std::int64_t expected = 0;
  for (const core::Parameter* p : model.parameters())
    if (p->is_matrix()) expected += p->value.bytes();
  EXPECT_EQ(layers.bytes(), expected);
  const std::vector<std::int32_t> ids = {1, 2, 3, 4, 5, 6, 7};
  const nn::Batch batch = nn::one_sequence(memory, ids, 0);
  core::Tape off(core::Tape::Mode::Off);
  const Tensor plain = model.forward(off, model.pass(batch)).hidden.value;
  const std::filesystem::path file = reference.folder() / "model.safetensors";
  EXPECT_GT(resident_bytes(file), 0);
  Tensor streamed;
  std::vector<std::int64_t> given;
  {
    nn::Pass pass = model.pass(batch);
    pass.gives = [&](std::int64_t layer, const core::Var&) {
      given.push_back(layer);
      EXPECT_TRUE(waits.now().starts_with("reads /") && waits.now().ends_with("/model.safetensors")) << waits.now();
    };
    layers.watch(pass);
    streamed = model.forward(off, pass).hidden.value;
  }
  EXPECT_EQ(waits.now(), "");
  EXPECT_EQ(resident_bytes(file), 0);  // so small a file goes as a whole with its last layer
  EXPECT_EQ(testing::values_of(streamed), testing::values_of(plain));
  EXPECT_EQ(given, (std::vector<std::int64_t>{0, 1, 2}));
  EXPECT_EQ(testing::values_of(model.forward(off, model.pass(batch)).hidden.value), testing::values_of(plain));

  nn::Transformer in_memory(reader.model_config(), {.memory = memory, .frozen = true});
  in_memory.load(reader);
  EXPECT_EQ(launch::MappedLayers(in_memory).bytes(), 0);
}

TEST(AvailableMemory, IsTheLeastOfMachineAndGroups) {
  const testing::TemporaryFolder root;
  const auto write = [&](const std::string& path, const std::string& text) {
    std::filesystem::create_directories((root / path).parent_path());
    testing::write_file(root / path, text);
  };
  EXPECT_EQ(launch::available_memory(root.path()), 0);
  write("proc/meminfo", "MemTotal:       24000000 kB\nMemAvailable:    1000 kB\n");
  EXPECT_EQ(launch::available_memory(root.path()), 1024000);
  write("proc/self/cgroup", "9:name=systemd:/\n4:cpu,memory:/a/b\n0::/\n");
  EXPECT_EQ(launch::available_memory(root.path()), 1024000);  // no group says anything
  write("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "900000\n");
  write("sys/fs/cgroup/memory/a/memory.usage_in_bytes", "700000\n");
  write("sys/fs/cgroup/memory/a/memory.stat", "cache 1\ntotal_cache 650000\ntotal_shmem 50000\n");
  EXPECT_EQ(launch::available_memory(root.path()), 800000);
  write("sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", "9223372036854771712\n");
  write("sys/fs/cgroup/memory/a/b/memory.usage_in_bytes", "1\n");
  EXPECT_EQ(launch::available_memory(root.path()), 800000);
  write("proc/self/cgroup", "0::/x.slice/y\n");
  write("sys/fs/cgroup/x.slice/memory.max", "max\n");
  write("sys/fs/cgroup/x.slice/y/memory.max", "500000\n");
  write("sys/fs/cgroup/x.slice/y/memory.current", "450000\n");
  write("sys/fs/cgroup/x.slice/y/memory.stat", "anon 1\nfile 100000\n");
  EXPECT_EQ(launch::available_memory(root.path()), 150000);
}

TEST(AvailableMemory, ThatRanOutIsCounted) {
  const testing::TemporaryFolder root;
  EXPECT_EQ(launch::memory_kills(root.path()), 0);
  std::filesystem::create_directories(root / "proc");
  testing::write_file(root / "proc/vmstat", "nr_free_pages 1234\noom_kill_not 9\noom_kill 3\nlast 7\n");
  EXPECT_EQ(launch::memory_kills(root.path()), 3);
}

}  // namespace
}  // namespace limbeck
