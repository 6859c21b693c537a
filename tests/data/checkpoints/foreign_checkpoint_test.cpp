// Checkpoints from outside, whose hashes are right and whose HDF5 files are not: nothing of another file is read, and
// what cannot be read is an error that names the file, never a number.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmath>
#include <functional>
#include <limits>

#include "data/checkpoints/checkpoint.h"
#include "tests/support/raw_hdf5.h"
#include "tests/support/temporary_folder.h"

namespace limbeck::data {
namespace {

namespace fs = std::filesystem;
using core::DType;
using core::Memory;
using core::Shape;
using core::StateDict;
using core::StateEntry;
using core::Tensor;
using limbeck::testing::error_of;
using limbeck::testing::raw_space;
using limbeck::testing::RawHdf5;
using limbeck::testing::RawId;
using limbeck::testing::read_file;
using limbeck::testing::TemporaryFolder;
using limbeck::testing::write_file;
using ::testing::AllOf;
using ::testing::HasSubstr;

const char* const weight = "/model/norm/weight";

/// norm.weight [8] of float32, 0 to 7, cut over `size` ranks; embed.weight [4,6] of the first rank.
fs::path save(const fs::path& checkpoints, int size) {
  const auto memory = Memory::cpu(1);
  const fs::path temporary = begin_checkpoint(checkpoints, 2);
  std::vector<RankFileInfo> infos;
  for (int rank = 0; rank < size; ++rank) {
    StateDict state;
    std::vector<float> values;
    for (int i = rank * 8 / size; i < (rank + 1) * 8 / size; ++i) values.push_back(static_cast<float>(i));
    const auto count = static_cast<std::int64_t>(values.size());
    state["norm.weight"] = {{8}, {rank * 8 / size}, Tensor::from<float>(memory, {count}, values), true};
    if (rank == 0) state["embed.weight"] = StateEntry::whole(Tensor::zeros(memory, DType::F32, {4, 6}));
    infos.push_back(write_rank_file(temporary, rank, 2, state));
  }
  return finish_checkpoint(temporary, infos, "{}");
}

std::vector<float> read_weight(const fs::path& folder) {
  StateEntry entry = StateEntry::whole(Tensor::zeros(Memory::cpu(1), DType::F32, {8}));
  Checkpoint(folder).read("norm.weight", entry);
  return core::host_values<float>(entry.tensor);
}

class ForeignCheckpoint : public ::testing::Test {
 protected:
  /// What is said of a checkpoint of two ranks that was changed and has right hashes again.
  std::string error_after(const std::function<void(const fs::path& folder)>& change) {
    const TemporaryFolder checkpoints;
    const fs::path folder = save(checkpoints.path(), 2);
    EXPECT_EQ(error_of([&] { read_weight(folder); }), "");
    Manifest manifest = read_manifest(folder);
    change(folder);
    for (auto& file : manifest.files) file = describe_file(folder, file.name);
    write_manifest(folder, manifest);
    return error_of([&] { read_weight(folder); });
  }
  std::string error_with_sources(const std::vector<limbeck::testing::RawSource>& sources) {
    return error_after(
        [&](const fs::path& folder) { RawHdf5(folder / "index.h5").replace_virtual(weight, {8}, sources); });
  }
  std::string error_with(const std::string& file, const std::function<void(const RawHdf5& file)>& change) {
    return error_after([&](const fs::path& folder) { change(RawHdf5(folder / file)); });
  }
};

TEST_F(ForeignCheckpoint, SourcesAreTheManifestsRankFilesAlone) {
  const auto refused = AllOf(HasSubstr("index.h5: /model/norm/weight has"));
  const TemporaryFolder other;
  const std::string elsewhere = (save(other.path(), 1) / "rank_00000.h5").string();
  EXPECT_THAT(error_with_sources({{elsewhere, weight, {0}, {8}}}), AllOf(refused, HasSubstr("beside this one")));
  for (const char* name : {".", "..", "../step_2/rank_00000.h5", "./rank_00000.h5", ".hidden"})
    EXPECT_THAT(error_with_sources({{name, weight, {0}, {8}}}), AllOf(refused, HasSubstr("beside this one"))) << name;
  EXPECT_THAT(error_with_sources({{"index.h5", weight, {0}, {8}}}), AllOf(refused, HasSubstr("manifest lists")));
  EXPECT_THAT(error_with_sources({{"other.h5", weight, {0}, {8}}}), AllOf(refused, HasSubstr("manifest lists")));
  EXPECT_THAT(error_with_sources({{"rank_00000.h5", "/model/embed/weight", {0}, {8}}}), refused);
}

TEST_F(ForeignCheckpoint, SourcesThatAreAPatternOrHaveNoEndAreRefused) {
  const auto endless = [&](const char* file, const char* dataset) {
    return error_with("index.h5", [&](const RawHdf5& index) {
      const hsize_t extent = 8;
      const hsize_t no_end = H5S_UNLIMITED;
      const hsize_t first = 0;
      const hsize_t block = 4;
      const RawId space = H5Screate_simple(1, &extent, &no_end);
      const RawId seen_at = H5Scopy(space);
      H5Sselect_hyperslab(seen_at, H5S_SELECT_SET, &first, &block, &no_end, &block);
      const RawId properties = H5Pcreate(H5P_DATASET_CREATE);
      EXPECT_GE(H5Pset_virtual(properties, seen_at, file, dataset, raw_space({4})), 0);
      index.replace_with_space(weight, space, properties);
    });
  };
  EXPECT_THAT(endless("rank_0000%b.h5", weight), AllOf(HasSubstr(weight), HasSubstr("beside this one")));
  EXPECT_THAT(endless("rank_00000.h5", "/model/norm/weight%b"), AllOf(HasSubstr(weight), HasSubstr("is a pattern")));
}

TEST_F(ForeignCheckpoint, SourcesCoverEveryElementOnce) {
  const limbeck::testing::RawSource first{"rank_00000.h5", weight, {0}, {4}};
  EXPECT_EQ(error_with_sources({first, {"rank_00001.h5", weight, {4}, {4}}}), "");
  EXPECT_THAT(error_with_sources({first}), AllOf(HasSubstr("norm.weight [8] has a gap: 4 of 8")));
  EXPECT_THAT(error_with_sources({first, {"rank_00001.h5", weight, {3}, {4}}}), HasSubstr("overlaps"));
  EXPECT_THAT(error_with_sources({}), AllOf(HasSubstr(weight), HasSubstr("has no values")));
  EXPECT_THAT(error_with_sources({first, first, {"rank_00001.h5", weight, {4}, {4}}}), HasSubstr("3 sources"));
  // Of a whole dataset only a part, or more than it has.
  EXPECT_THAT(error_with_sources({{"rank_00000.h5", weight, {0}, {3}}, {"rank_00001.h5", weight, {3}, {5}}}),
              AllOf(HasSubstr("rank_0000"), HasSubstr("is float32 [4], expected float32 [3]")));
  EXPECT_THAT(error_with("index.h5",
                         [](const RawHdf5& index) {  // values of its own
                           const RawId properties = H5Pcreate(H5P_DATASET_CREATE);
                           index.replace(weight, {8}, properties);
                         }),
              AllOf(HasSubstr(weight), HasSubstr("has no values")));
}

TEST_F(ForeignCheckpoint, ExternalStorageIsRefused) {
  const auto outside = [](const RawHdf5& file, hsize_t count) {
    const RawId properties = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_external(properties, "/etc/passwd", 0, 4 * count);
    file.replace(weight, {count}, properties);
  };
  EXPECT_THAT(error_with("index.h5", [&](const RawHdf5& file) { outside(file, 8); }),
              AllOf(HasSubstr("index.h5: /model/norm/weight"), HasSubstr("external storage")));
  EXPECT_THAT(error_with("rank_00001.h5", [&](const RawHdf5& file) { outside(file, 4); }),
              AllOf(HasSubstr("rank_00001.h5: /model/norm/weight"), HasSubstr("external storage")));
}

TEST_F(ForeignCheckpoint, LinksAreHardAndGroupsFew) {
  for (const char* name : {"index.h5", "rank_00000.h5"}) {
    EXPECT_THAT(
        error_with(name, [](const RawHdf5& f) { H5Lcreate_soft(weight, f, "/soft", H5P_DEFAULT, H5P_DEFAULT); }),
        AllOf(HasSubstr(name), HasSubstr("/ has \"soft\", a soft or external link")));
    EXPECT_THAT(error_with(name,
                           [](const RawHdf5& f) {
                             H5Lcreate_external("/etc/passwd", "/x", f, "/model/outside", H5P_DEFAULT, H5P_DEFAULT);
                           }),
                AllOf(HasSubstr(name), HasSubstr("/model has \"outside\", a soft or external link")));
    EXPECT_THAT(
        error_with(name,
                   [](const RawHdf5& f) { H5Lcreate_hard(f, "/model", f, "/model/circle", H5P_DEFAULT, H5P_DEFAULT); }),
        AllOf(HasSubstr(name), HasSubstr("/model/circle is linked to a second time")));
    EXPECT_THAT(error_with(name,
                           [](const RawHdf5& f) {
                             std::string path;
                             for (int i = 0; i < 33; ++i) {
                               path += "/x";
                               const RawId group = H5Gcreate2(f, path.c_str(), H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
                             }
                           }),
                AllOf(HasSubstr(name), HasSubstr("more than 32 groups deep")));
    EXPECT_THAT(error_with(name,
                           [](const RawHdf5& f) {
                             const RawId type = H5Tcopy(H5T_IEEE_F32LE);
                             H5Tcommit2(f, "/type", type, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
                           }),
                AllOf(HasSubstr(name), HasSubstr("/type is neither a group nor a dataset")));
  }
}

TEST_F(ForeignCheckpoint, ARankFileThatDoesNotHoldWhatTheIndexSaysIsNamed) {
  const auto with_dataset = [&](const std::vector<hsize_t>& extents, hid_t type,
                                const std::function<void(hid_t properties)>& set) {
    return error_with("rank_00001.h5", [&](const RawHdf5& file) {
      const RawId properties = H5Pcreate(H5P_DATASET_CREATE);
      set(properties);
      file.replace(weight, extents, properties, type);
    });
  };
  const auto is_named = HasSubstr("rank_00001.h5: /model/norm/weight ");
  const auto early = [](hid_t properties) { H5Pset_alloc_time(properties, H5D_ALLOC_TIME_EARLY); };
  EXPECT_EQ(with_dataset({4}, H5T_IEEE_F32LE, early), "");
  EXPECT_THAT(with_dataset({4}, H5T_IEEE_F64LE, early), AllOf(is_named, HasSubstr("is float64 [4], expected float32")));
  EXPECT_THAT(with_dataset({3}, H5T_IEEE_F32LE, early), AllOf(is_named, HasSubstr("is float32 [3], expected")));
  EXPECT_THAT(with_dataset({2, 2}, H5T_IEEE_F32LE, early), AllOf(is_named, HasSubstr("is float32 [2,2], expected")));
  EXPECT_THAT(with_dataset({4}, H5T_IEEE_F32BE, early), HasSubstr("rank_00001.h5: /model/norm/weight has a type"));
  EXPECT_THAT(with_dataset({4}, H5T_IEEE_F32LE, [](hid_t) {}), AllOf(is_named, HasSubstr("do not lie in the file")));
  EXPECT_THAT(with_dataset({4}, H5T_IEEE_F32LE, [](hid_t p) { H5Pset_layout(p, H5D_COMPACT); }),
              AllOf(is_named, HasSubstr("is not contiguous")));
  EXPECT_THAT(with_dataset({4}, H5T_IEEE_F32LE,
                           [](hid_t p) {
                             const hsize_t chunk = 2;
                             H5Pset_chunk(p, 1, &chunk);
                             H5Pset_deflate(p, 1);
                           }),
              AllOf(is_named, HasSubstr("is not contiguous")));
  EXPECT_THAT(error_with("rank_00001.h5",
                         [](const RawHdf5& f) {
                           f.replace_virtual(weight, {4}, {{"rank_00000.h5", weight, {0}, {4}}});
                         }),
              AllOf(is_named, HasSubstr("is not contiguous")));
  EXPECT_THAT(error_with("rank_00001.h5", [](const RawHdf5& f) { H5Ldelete(f, weight, H5P_DEFAULT); }),
              HasSubstr("rank_00001.h5: /model/norm/weight"));
}

TEST_F(ForeignCheckpoint, ABrokenFileIsNamed) {
  for (const char* name : {"index.h5", "rank_00000.h5", "rank_00001.h5"}) {
    EXPECT_THAT(error_after([&](const fs::path& folder) {
                  write_file(folder / name, read_file(folder / name).substr(0, 400));
                }),
                HasSubstr(name));
    EXPECT_THAT(error_after([&](const fs::path& folder) { write_file(folder / name, "no HDF5 at all"); }),
                HasSubstr(name));
  }
  // A rank file that lies elsewhere.
  const TemporaryFolder other;
  const fs::path same = save(other.path(), 2) / "rank_00001.h5";
  EXPECT_THAT(error_after([&](const fs::path& folder) {
                fs::remove(folder / "rank_00001.h5");
                fs::create_symlink(same, folder / "rank_00001.h5");
              }),
              AllOf(HasSubstr("rank_00001.h5"), HasSubstr("is no regular file")));
}

TEST_F(ForeignCheckpoint, AttributesSayWhatTheyShould) {
  EXPECT_THAT(error_with("index.h5", [](const RawHdf5& f) { f.empty_attribute(weight, "global_shape"); }),
              HasSubstr("index.h5: /model/norm/weight has no value"));
  EXPECT_THAT(error_with("index.h5", [](const RawHdf5& f) { f.empty_attribute(weight, "name"); }),
              HasSubstr("index.h5: /model/norm/weight has a name that is no text"));
  EXPECT_THAT(error_with("index.h5",
                         [](const RawHdf5& f) {
                           const RawId object = H5Dopen2(f, weight, H5P_DEFAULT);
                           H5Adelete(object, "name");
                         }),
              AllOf(HasSubstr("index.h5"), HasSubstr(weight), HasSubstr("attribute name")));
}

/// Leaves this process `free` file descriptors.
class FewDescriptors {
 public:
  explicit FewDescriptors(rlim_t free) {
    ::getrlimit(RLIMIT_NOFILE, &before_);
    const int next = ::open("/dev/null", O_RDONLY);
    ::close(next);
    const rlimit few{static_cast<rlim_t>(next) + free, before_.rlim_max};
    ::setrlimit(RLIMIT_NOFILE, &few);
  }
  ~FewDescriptors() { ::setrlimit(RLIMIT_NOFILE, &before_); }

 private:
  rlimit before_{};
};

TEST(CheckpointDescriptors, OneIsEnoughAndWithNoneTheFileIsNamed) {
  const TemporaryFolder checkpoints;
  const fs::path folder = save(checkpoints.path(), 8);
  const std::vector<float> expected = {0, 1, 2, 3, 4, 5, 6, 7};
  // Once with enough: the sanitizer opens a pipe when it sees a class, also that of an error, for the first time.
  EXPECT_EQ(read_weight(folder), expected);
  EXPECT_NE(error_of([&] { read_weight(checkpoints.path()); }), "");
  std::vector<float> values;
  std::string error;
  {
    const FewDescriptors few(1);
    error = error_of([&] { values = read_weight(folder); });
  }
  EXPECT_EQ(error, "");
  EXPECT_EQ(values, expected);
  const Checkpoint opened(folder);
  StateEntry entry = StateEntry::whole(Tensor::zeros(Memory::cpu(1), DType::F32, {8}));
  {
    const FewDescriptors few(0);
    error = error_of([&] { opened.read("norm.weight", entry); });
  }
  EXPECT_THAT(error, AllOf(HasSubstr("rank_00000.h5"), HasSubstr("Too many open files")));
}

TEST(CheckpointValues, ThoseThatAreNotFiniteAreNamed) {
  const TemporaryFolder checkpoints;
  const auto memory = Memory::cpu(1);
  const fs::path temporary = begin_checkpoint(checkpoints.path(), 2);
  StateDict state;
  state["norm.weight"] =
      StateEntry::whole(Tensor::from<float>(memory, {2, 2}, std::vector<float>{1, 2, std::nanf(""), 3}));
  const fs::path folder = finish_checkpoint(temporary, std::vector{write_rank_file(temporary, 0, 2, state)}, "");
  const Checkpoint checkpoint(folder);
  StateEntry entry = StateEntry::whole(Tensor::zeros(memory, DType::F64, {2, 2}));
  EXPECT_THAT(error_of([&] { checkpoint.read("norm.weight", entry); }),
              AllOf(HasSubstr("step_2"), HasSubstr("norm.weight holds NaN or an infinity at [1,0]")));
}

}  // namespace
}  // namespace limbeck::data
