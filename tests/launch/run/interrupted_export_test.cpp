// Exports that are stopped at any place and go on, on models that transformers saved.
#include <gmock/gmock.h>

#include <filesystem>
#include <map>
#include <mutex>
#include <stdexcept>

#include "data/models/gguf_export.h"
#include "data/models/hugging_face.h"
#include "launch/run/model_source.h"
#include "tests/support/family_reference.h"
#include "tests/support/places.h"
#include "tests/support/temporary_folder.h"

namespace limbeck {
namespace {

namespace fs = std::filesystem;
using core::DType;
using testing::error_of;
using ::testing::HasSubstr;
using testing::read_file;
using testing::TemporaryFolder;

/// Counts how many values of each tensor are read.
class Counting : public core::StateReader {
 public:
  explicit Counting(const core::StateReader& of) : of_(of) {}
  std::string source() const override { return of_.source(); }
  const std::map<std::string, core::StateInfo>& tensors() const override { return of_.tensors(); }
  mutable std::map<std::string, std::int64_t> values = {};

 private:
  void fill(const std::string& name, const core::StateInfo&, core::StateEntry& entry) const override {
    {
      const std::scoped_lock lock(mutex_);
      values[name] += entry.tensor.numel();
    }
    of_.read(name, entry);
  }
  const core::StateReader& of_;
  mutable std::mutex mutex_;
};

struct Interrupted : std::runtime_error {
  Interrupted() : std::runtime_error("interrupted") {}
};

/// Throws when `bytes` are written.
data::ExportWork until(std::int64_t bytes) {
  data::ExportWork work{.identity = "model", .threads = 2};
  work.progress = [bytes](std::int64_t done, std::int64_t) {
    if (done >= bytes) throw Interrupted();
  };
  return work;
}

std::map<std::string, std::string> files_in(const fs::path& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::directory_iterator(folder))
    files[entry.path().filename().string()] = entry.is_directory() ? "folder" : read_file(entry.path());
  return files;
}

class InterruptedExport : public ::testing::Test {
 protected:
  void to_folder(const core::StateReader& reader, const fs::path& to, const data::ExportWork& work) {
    data::export_hugging_face(reader, model_.model_config(), to,
                              {.dtype = DType::F32,
                               .files = {{"tokenizer.json", "{}"}},
                               .max_shard_bytes = 6000,
                               .values_at_once = 500,
                               .work = work});
  }
  void to_file(const core::StateReader& reader, const fs::path& to, const data::ExportWork& work) {
    data::export_gguf(reader, model_.model_config(), to, {.dtype = DType::F32, .values_at_once = 500, .work = work});
  }
  std::int64_t all_bytes() const {
    std::int64_t bytes = 0;
    for (const auto& [name, info] : model_.tensors()) bytes += 4 * info.shape.numel();
    return bytes;
  }
  /// What is read twice is of the tensor that was interrupted, and of those that were read ahead.
  void expect_little_read_twice(const Counting& reader) const {
    std::int64_t twice = 0;
    for (const auto& [name, info] : model_.tensors()) {
      EXPECT_GE(reader.values.at(name), info.shape.numel()) << name;
      twice += reader.values.at(name) - info.shape.numel();
    }
    EXPECT_LE(twice, largest_ + 6 * 600);
  }

  const data::HuggingFaceModel model_{testing::family_folder("mixtral")};
  const std::int64_t largest_ = [this] {
    std::int64_t values = 0;
    for (const auto& [name, info] : model_.tensors()) values = std::max(values, info.shape.numel());
    return values;
  }();
  TemporaryFolder folder_;
};

TEST_F(InterruptedExport, ADirectoryGoesOnAndIsTheSame) {
  to_folder(model_, folder_ / "whole", {});
  const auto expected = files_in(folder_ / "whole");
  ASSERT_GT(expected.size(), 5U);  // of several shards
  for (const std::int64_t percent : {0, 1, 30, 50, 77, 99, 100}) {
    const fs::path out = folder_ / fmt::format("out{}", percent);
    const Counting reader(model_);
    EXPECT_THROW(to_folder(reader, out, until(all_bytes() * percent / 100)), Interrupted);
    // Nothing that anybody takes for a model.
    EXPECT_EQ(files_in(out), (std::map<std::string, std::string>{{".unfinished", "folder"}}));
    EXPECT_THAT(error_of([&] { launch::open_model(out); }), HasSubstr("no model"));
    EXPECT_THAT(error_of([&] { launch::open_model(out / ".unfinished"); }), HasSubstr("no model"));
    data::ExportWork work{.identity = "model", .threads = 2};
    std::int64_t first = -1;
    work.progress = [&](std::int64_t done, std::int64_t) {
      if (first < 0) first = done;
    };
    to_folder(reader, out, work);
    EXPECT_GE(first, all_bytes() * percent / 100 - 4 * largest_);
    EXPECT_EQ(files_in(out), expected);
    expect_little_read_twice(reader);
  }
}

TEST_F(InterruptedExport, AFileGoesOnAndIsTheSame) {
  fs::create_directory(folder_ / "whole");
  to_file(model_, folder_ / "whole/m.gguf", {});
  const std::string expected = read_file(folder_ / "whole/m.gguf");
  EXPECT_EQ(files_in(folder_ / "whole").size(), 1U);
  for (const std::int64_t percent : {0, 1, 50, 99, 100}) {
    const fs::path out = folder_ / fmt::format("out{}", percent);
    fs::create_directory(out);
    testing::write_file(out / "m.gguf", "older");
    const Counting reader(model_);
    EXPECT_THROW(to_file(reader, out / "m.gguf", until(all_bytes() * percent / 100)), Interrupted);
    EXPECT_EQ(read_file(out / "m.gguf"), "older");
    to_file(reader, out / "m.gguf", {.identity = "model", .threads = 2});
    EXPECT_EQ(files_in(out), (std::map<std::string, std::string>{{"m.gguf", expected}}));
    expect_little_read_twice(reader);
  }
}

// While it is read back all is there, but under no name.
TEST_F(InterruptedExport, ACheckThatIsInterruptedIsMadeAgainAndNothingElse) {
  data::ExportWork work{.identity = "model"};
  work.verify = [&](const fs::path& written) {
    EXPECT_EQ(launch::open_model(written).config.num_layers, model_.model_config().num_layers);
    throw Interrupted();
  };
  EXPECT_THROW(to_folder(model_, folder_ / "out", work), Interrupted);
  EXPECT_THROW(to_file(model_, folder_ / "m.gguf", work), Interrupted);
  EXPECT_FALSE(fs::exists(folder_ / "m.gguf"));
  EXPECT_FALSE(fs::exists(folder_ / "out/config.json"));
  const Counting reader(model_);
  to_folder(reader, folder_ / "out", {.identity = "model"});
  to_file(reader, folder_ / "m.gguf", {.identity = "model"});
  EXPECT_TRUE(reader.values.empty());
  EXPECT_EQ(launch::open_model(folder_ / "out").config, model_.model_config());
  EXPECT_EQ(launch::open_model(folder_ / "m.gguf").kind, launch::ModelKind::Gguf);
}

// An error is none of the machine's: who repeats it gets it again.
TEST_F(InterruptedExport, AnErrorLeavesNothing) {
  data::ExportWork work{.identity = "model"};
  work.verify = [&](const fs::path& written) { core::fail("{}: differs", written.string()); };
  EXPECT_THAT(error_of([&] { to_folder(model_, folder_ / "out", work); }), HasSubstr(".unfinished: differs"));
  EXPECT_THAT(error_of([&] { to_file(model_, folder_ / "m.gguf", work); }), HasSubstr("m.gguf.tmp: differs"));
  EXPECT_TRUE(fs::is_empty(folder_.path()));
}

TEST_F(InterruptedExport, AnotherSourceBeginsAnew) {
  EXPECT_THROW(to_file(model_, folder_ / "m.gguf", until(all_bytes() / 2)), Interrupted);
  const Counting reader(model_);
  data::ExportWork work{.identity = "another"};
  std::vector<std::string> said;
  work.notice = [&](const std::string& line) { said.push_back(line); };
  to_file(reader, folder_ / "m.gguf", work);
  EXPECT_THAT(said, ::testing::ElementsAre(HasSubstr("beginning anew")));
  for (const auto& [name, info] : model_.tensors()) EXPECT_EQ(reader.values.at(name), info.shape.numel()) << name;
}

// A kill between two renames, which a folder in the way stands for: what has been moved stays, and the rest follows.
TEST_F(InterruptedExport, AMoveThatWasCutShortIsFinished) {
  to_folder(model_, folder_ / "whole", {.identity = "model"});
  const auto expected = files_in(folder_ / "whole");
  data::ExportWork work{.identity = "model"};
  work.verify = [&](const fs::path& written) { fs::create_directories(written / "../tokenizer.json/in_the_way"); };
  EXPECT_THROW(to_folder(model_, folder_ / "out", work), fs::filesystem_error);
  EXPECT_GT(files_in(folder_ / "out").size(), 3U);  // shards that have been moved
  EXPECT_FALSE(fs::exists(folder_ / "out/config.json"));
  fs::remove_all(folder_ / "out/tokenizer.json");
  const Counting reader(model_);
  to_folder(reader, folder_ / "out", {.identity = "model"});
  EXPECT_TRUE(reader.values.empty());
  EXPECT_EQ(files_in(folder_ / "out"), expected);
}

}  // namespace
}  // namespace limbeck
