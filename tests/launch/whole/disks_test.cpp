// Disks and limits that fail under a run: each time one line with the reason, exit code 1, and the checkpoint before
// stays whole, from which the run goes on when there is room again. File systems are mounted for it, which needs root.
#include <fmt/format.h>
#include <gmock/gmock.h>

#include <algorithm>
#include <filesystem>

#include "data/checkpoints/checkpoint.h"
#include "tests/support/run_limbeck.h"

namespace limbeck {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::Outcome;
using testing::run_shell;
using testing::RunFolder;

/// A file system that is mounted at a path while it lasts.
class Mounted {
 public:
  Mounted(const std::string& what, fs::path at) : at_(std::move(at)) {
    fs::create_directories(at_);
    is_there_ = run_shell(fmt::format("mount {} {}", what, at_.string())).code == 0;
  }
  ~Mounted() {
    if (is_there_) run_shell("umount " + at_.string());
  }
  Mounted(const Mounted&) = delete;
  Mounted& operator=(const Mounted&) = delete;
  bool is_there() const { return is_there_; }

 private:
  fs::path at_;
  bool is_there_ = false;
};

/// That it ended with one line that gives the reason.
void expect_failed(const Outcome& outcome, const std::string& reason) {
  EXPECT_EQ(outcome.code, 1) << outcome.output;
  EXPECT_THAT(outcome.lines_with("limbeck: error"), ElementsAre(HasSubstr(reason))) << outcome.output;
}

/// Trains to step 4, then on by `command` with a disk that fails it, for each number of ranks; then on to step 12.
class Disks : public ::testing::TestWithParam<int> {
 protected:
  Disks() : folder_(fmt::format("disks_{}", GetParam())) {}
  Outcome train(const std::string& more) const {
    return folder_.limbeck("train tiny.textproto --out disk/run --resume " + more, GetParam());
  }
  /// The checkpoint of step 4 is there, whole, and what comes of it is what comes of a run that met no bad disk.
  void expect_goes_on() const {
    EXPECT_TRUE(fs::exists(run() / "checkpoints/step_4/manifest.json"));
    EXPECT_FALSE(fs::exists(run() / "checkpoints/step_8"));
    const Outcome resumed = train("--steps 12");
    EXPECT_EQ(resumed.code, 0) << resumed.output;
    EXPECT_THAT(resumed.lines_with("continuing from"), ElementsAre(HasSubstr("step_4 after step 4"))) << resumed.output;
    folder_.succeed("train tiny.textproto --out whole --steps 12", GetParam());
    EXPECT_EQ(folder_.metrics("disk/run"), folder_.metrics("whole"));
  }
  fs::path run() const { return folder_.path() / "disk/run"; }

  RunFolder folder_;
};

// The second checkpoint has room for a part of it alone.
TEST_P(Disks, OneThatIsFullInMidSave) {
  const Mounted disk("-t tmpfs -o size=16m tmpfs", folder_.path() / "disk");
  if (!disk.is_there()) GTEST_SKIP() << "mounting needs root";
  ASSERT_EQ(train("--steps 4").code, 0);
  const fs::path filler = folder_.path() / "disk/filler";
  const auto room = fs::space(folder_.path() / "disk").available;
  ASSERT_GT(room, 400'000U);
  run_shell(fmt::format("head -c {} /dev/zero >{}", room - 200'000, filler.string()));
  expect_failed(train("--steps 12"), "No space left on device");
  fs::remove(filler);
  expect_goes_on();
}

TEST_P(Disks, OneThatIsReadOnly) {
  fs::create_directory(folder_.path() / "disk");
  ASSERT_EQ(train("--steps 4").code, 0);
  const std::string checkpoints = (run() / "checkpoints").string(), whole = run().string();
  for (const std::string& folder : {checkpoints, whole}) {
    const Mounted bound("--bind " + folder, folder);
    if (!bound.is_there()) GTEST_SKIP() << "mounting needs root";
    ASSERT_EQ(run_shell("mount -o remount,bind,ro " + folder).code, 0);
    expect_failed(train("--steps 12"), "Read-only file system");
  }
  expect_goes_on();
}

INSTANTIATE_TEST_SUITE_P(Of, Disks, ::testing::Values(1, 2));

// What several ranks share lies in no file of /dev/shm.
TEST(SharedMemory, DevShmMayBeSmall) {
  const RunFolder folder("small_shm");
  folder.succeed("train tiny.textproto --out whole --steps 4", 2);
  if (run_shell("unshare --mount true").code != 0) GTEST_SKIP() << "namespaces need root";
  const std::string train =
      folder.command("train tiny.textproto --out run --steps 4 --set model.width=128 --set parallel.bucket_mib=16", 2);
  const Outcome small =
      run_shell("unshare --mount sh -c '" + std::string("mount -t tmpfs -o size=1m tmpfs /dev/shm && ") + train + "'");
  EXPECT_EQ(small.code, 0) << small.output;
}

std::vector<std::string> checkpoints_of(const RunFolder& folder, const std::string& run) {
  std::vector<std::string> names;
  for (const auto& item : fs::directory_iterator(folder.path() / run / "checkpoints"))
    names.push_back(item.path().filename());
  std::ranges::sort(names);
  return names;
}

// Values and moments alike, in 8 bits too, and what comes of them.
TEST(Saving, BesideStepsSavesWhatWaitingSaves) {
  const RunFolder folder("beside");
  const std::string train =
      "train tiny.textproto --steps 12 --set train.keep_checkpoints=9 --set parallel.shard=OPTIMIZER --set "
      "optimizer.eight_bit_state=true --out ";
  folder.succeed(train + "beside", 2);
  folder.succeed(train + "waits --set train.save_in_background=false", 2);
  EXPECT_EQ(folder.metrics("beside"), folder.metrics("waits"));
  EXPECT_THAT(checkpoints_of(folder, "beside"), ElementsAre("step_12", "step_4", "step_8"));
  for (const char* step : {"step_4", "step_8", "step_12"})
    for (const char* file : {"rank_00000.h5", "rank_00001.h5", "index.h5"}) {
      const std::string name = fmt::format("/checkpoints/{}/{}", step, file);
      EXPECT_GT(folder.read("beside" + name).size(), 1000U);
      EXPECT_EQ(folder.read("beside" + name), folder.read("waits" + name)) << name;
    }
}

// Where the system says that little is left: one line, and all that is asked for is saved.
TEST(Saving, WithoutRoomForACopyStepsWait) {
  const RunFolder folder("no_room");
  if (run_shell("unshare --mount true").code != 0) GTEST_SKIP() << "namespaces need root";
  folder.write("meminfo", "MemTotal: 4000 kB\nMemAvailable: 300 kB\n");
  const Outcome run =
      run_shell(fmt::format("unshare --mount sh -c 'mount --bind {}/meminfo /proc/meminfo && {}'",
                            folder.path().string(), folder.command("train tiny.textproto --steps 9 --out run", 2)));
  EXPECT_EQ(run.code, 0) << run.output;
  EXPECT_EQ(run.lines_with("steps wait while a checkpoint is written").size(), 1U) << run.output;
  EXPECT_EQ(run.lines_with("a rank is planned to take ").size(), 0U) << run.output;  // its state is a little of it
  EXPECT_THAT(checkpoints_of(folder, "run"), ElementsAre("step_4", "step_8", "step_9"));
}

TEST(Saving, ARunThatWillNotFitSaysSoBeforeItBegins) {
  const RunFolder folder("no_memory");
  if (run_shell("unshare --mount true").code != 0) GTEST_SKIP() << "namespaces need root";
  folder.write("meminfo", "MemTotal: 4000 kB\nMemAvailable: 30 kB\n");
  const Outcome run = run_shell(fmt::format(
      "unshare --mount sh -c 'mount --bind {}/meminfo /proc/meminfo && {}'", folder.path().string(),
      folder.command("train tiny.textproto --steps 1 --out run --set model.width=512 --set model.mlp_width=4096", 2)));
  EXPECT_EQ(run.code, 0) << run.output;
  EXPECT_EQ(run.lines_with("a rank is planned to take ").size(), 1U) << run.output;
}

TEST(Saving, MultiplesAreKeptForGood) {
  const RunFolder folder("multiples");
  folder.succeed(
      "train tiny.textproto --steps 14 --set train.checkpoint_every_steps=2 --set train.keep_checkpoints=1 "
      "--set train.keep_every_steps=6 --out run");
  EXPECT_THAT(checkpoints_of(folder, "run"), ElementsAre("step_12", "step_14", "step_6"));
}

TEST(Saving, WhatIsBeingSavedOutlivesALossThatIsNone) {
  const RunFolder folder("not_finite");
  for (const int ranks : {1, 2}) {
    const std::string run = fmt::format("run{}", ranks);
    const Outcome outcome = run_shell("export " + testing::slow_calls() + " SLOW_FSYNC_MS=200; " +
                                      folder.command("train tiny.textproto --set train.checkpoint_every_steps=1 --set "
                                                     "optimizer.rate=1e30 --set optimizer.clip_norm=0 --out " +
                                                         run,
                                                     ranks));
    expect_failed(outcome, "not finite at step 2");
    EXPECT_THAT(checkpoints_of(folder, run), ElementsAre("step_1"));
  }
}

// Whatever instant of a save, beside steps or not, it is: what is there is whole, and the run goes on from it.
TEST(Saving, AKillAtAnyInstantLeavesOneThatIsWhole) {
  const RunFolder folder("killed_save");
  folder.succeed("train tiny.textproto --out whole");
  std::string command = folder.command("");  // "cd FOLDER && OMP_NUM_THREADS=1 PROGRAM "
  command.replace(command.find("&&"), 2, "; " + testing::slow_calls() + " SLOW_FSYNC_MS=100");
  for (const char* later : {"0", "0.1", "0.2", "0.3", "0.4", "0.5"}) {
    fs::remove_all(folder.path() / "run");
    run_shell(
        fmt::format("{} train tiny.textproto --out run --quiet & p=$!; for i in $(seq "
                    "3000); do [ -d {}/run/checkpoints/step_8.tmp ] && break; sleep 0.01; done; sleep {}; kill "
                    "-KILL $p; wait $p",
                    command, folder.path().string(), later));
    std::vector<std::string> bad;
    const auto found = data::newest_good_checkpoint(folder.path() / "run/checkpoints",
                                                    [&](const std::string& what) { bad.push_back(what); });
    EXPECT_TRUE(found) << later;
    EXPECT_THAT(bad, ::testing::IsEmpty()) << later;
    folder.succeed("train tiny.textproto --out run --resume");
    EXPECT_EQ(folder.metrics("run"), folder.metrics("whole")) << later;
  }
}

}  // namespace
}  // namespace limbeck
