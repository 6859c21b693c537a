// Models split in parts: what the gguf package wrote, whole and damaged.
#include <gmock/gmock.h>

#include <filesystem>

#include "data/models/gguf_model.h"
#include "tests/support/teacher_file.h"
#include "tests/support/temporary_folder.h"

namespace limbeck::data {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;

class GgufParts : public ::testing::Test {
 protected:
  void SetUp() override {
    for (int i = 1; i <= 4; ++i) fs::copy_file(golden_path_of(i), part(i));
  }
  static std::string golden_path_of(int number) {
    return testing::golden_path(fmt::format("gguf/llama_parts-{:05}-of-00004.gguf", number));
  }
  std::string part(int number) const { return folder_ / fmt::format("m-{:05}-of-00004.gguf", number); }
  /// Gives a key of a part another number; the key's value is of two or four bytes.
  void set(int number, const std::string& key, int value) const {
    std::string bytes = testing::read_file(part(number));
    const std::size_t at = bytes.find(key) + key.size() + 4;  // behind the type
    bytes[at] = static_cast<char>(value & 0xff);
    bytes[at + 1] = static_cast<char>(value >> 8);
    testing::write_file(part(number), bytes);
  }
  std::string refusal(int opened = 1) const {
    const std::string message = testing::error_of([&] { GgufFile file(part(opened)); });
    EXPECT_EQ(message.find('\n'), std::string::npos);
    return message;
  }
  testing::TemporaryFolder folder_;
};

TEST_F(GgufParts, AnyPartOpensTheWholeModel) {
  const auto memory = core::Memory::cpu(1);
  const GgufModel whole(std::make_shared<GgufFile>(testing::golden_path("gguf/llama_moe.gguf")));
  for (int opened = 1; opened <= 4; ++opened) {
    const auto file = std::make_shared<GgufFile>(part(opened));
    EXPECT_EQ(file->num_parts(), 4U);
    EXPECT_EQ(file->integer("split.no"), 0);
    const GgufModel model(file);
    EXPECT_EQ(model.model_config(), whole.model_config());
    ASSERT_EQ(model.tensors().size(), whole.tensors().size());
    for (const auto& [name, info] : whole.tensors()) {
      auto a = core::StateEntry::whole(core::Tensor::zeros(memory, core::DType::F32, info.shape));
      auto b = core::StateEntry::whole(core::Tensor::zeros(memory, core::DType::F32, info.shape));
      whole.read(name, a);
      model.read(name, b);
      EXPECT_EQ(core::host_values<float>(a.tensor), core::host_values<float>(b.tensor)) << name;
    }
  }
}

TEST_F(GgufParts, AMissingPartIsNamed) {
  fs::remove(part(3));
  for (const int opened : {1, 2, 4})
    EXPECT_THAT(refusal(opened),
                AllOf(HasSubstr(part(opened)), HasSubstr("part"), HasSubstr("there is no " + part(3))));
}

TEST_F(GgufParts, ATruncatedPartIsNamed) {
  const std::string bytes = testing::read_file(part(2));
  for (const std::size_t size :
       {std::size_t{0}, std::size_t{3}, std::size_t{100}, bytes.size() / 2, bytes.size() - 40}) {
    testing::write_file(part(2), bytes.substr(0, size));
    EXPECT_TRUE(refusal().starts_with(part(2) + ":")) << refusal();
  }
}

TEST_F(GgufParts, PartsThatDisagreeAreNamed) {
  set(2, "split.count", 5);
  EXPECT_THAT(refusal(), AllOf(HasSubstr(part(2)), HasSubstr("split.count is 5, expected 4")));
  set(2, "split.count", 1);
  EXPECT_THAT(refusal(), HasSubstr("split.count is 1, expected 4"));
  set(2, "split.count", 4);
  set(2, "split.no", 2);
  EXPECT_THAT(refusal(), AllOf(HasSubstr(part(2)), HasSubstr("split.no is 2, expected 1")));
  set(2, "split.no", 9);
  EXPECT_THAT(refusal(), HasSubstr("split.no is 9, expected 0 to 3"));
  set(2, "split.no", 1);
  set(3, "split.tensors.count", 22);
  EXPECT_THAT(refusal(), AllOf(HasSubstr(part(3)), HasSubstr("split.tensors.count is not what an earlier part says")));
  for (const int i : {1, 2, 3, 4}) set(i, "split.tensors.count", 24);
  EXPECT_THAT(refusal(), HasSubstr("split.tensors.count is 24, but the 4 parts hold 23 tensors"));
  for (const int i : {1, 2, 3, 4}) set(i, "split.tensors.count", 23);
  EXPECT_EQ(refusal(), "");
}

TEST_F(GgufParts, ATensorInTwoPartsIsNamed) {
  fs::copy_file(part(2), part(3), fs::copy_options::overwrite_existing);
  set(3, "split.no", 2);
  EXPECT_THAT(refusal(), AllOf(HasSubstr(part(3)), HasSubstr("is in an earlier part too")));
}

TEST_F(GgufParts, AnotherNameIsRefused) {
  const std::string renamed = folder_ / "model.gguf";
  fs::copy_file(part(1), renamed);
  EXPECT_THAT(testing::error_of([&] { GgufFile file(renamed); }),
              HasSubstr("is part 1 of 4, expected a name that ends in -00001-of-00004.gguf"));
  fs::copy_file(part(2), folder_ / "x-00001-of-00004.gguf");
  EXPECT_THAT(testing::error_of([&] { GgufFile file(folder_ / "x-00001-of-00004.gguf"); }),
              HasSubstr("is part 2 of 4"));
}

TEST_F(GgufParts, KeysOfASplitAreThere) {
  std::string bytes = testing::read_file(part(1));
  bytes.replace(bytes.find("split.no"), 8, "split.on");
  testing::write_file(part(1), bytes);
  EXPECT_THAT(refusal(), HasSubstr("has no metadata key split.no"));
}

// A file that was merged again keeps a count of 0.
TEST_F(GgufParts, ACountBelowTwoIsAWholeFile) {
  for (const int count : {0, 1}) {
    set(2, "split.count", count);
    EXPECT_EQ(GgufFile(part(2)).num_parts(), 1U);
    EXPECT_EQ(GgufFile(part(2)).tensors().size(), 9U);
  }
}

}  // namespace
}  // namespace limbeck::data
