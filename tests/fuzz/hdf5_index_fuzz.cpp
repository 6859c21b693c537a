// A checkpoint whose index.h5 (or, by the first byte, one of whose rank files) is any bytes, with right hashes: what
// someone who means harm would make. HDF5 checks sums over its structures; they are put right after each mutation, or
// nothing behind them would be reached.
#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "data/checkpoints/checkpoint.h"
#include "tests/support/temporary_folder.h"

extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t max_size);

namespace {

using namespace limbeck;
namespace fs = std::filesystem;

constexpr std::array<const char*, 2> file_names = {"index.h5", "rank_00000.h5"};

/// A checkpoint of two ranks: a matrix cut by rows, a vector and a scalar of one rank, groups of many and of few.
class Original {
 public:
  Original() {
    const auto memory = core::Memory::cpu(1);
    const fs::path temporary = data::begin_checkpoint(folder_.path(), 1);
    std::vector<data::RankFileInfo> infos;
    for (int rank = 0; rank < 2; ++rank) {
      core::StateDict state;
      const core::Tensor rows = core::Tensor::zeros(memory, core::DType::F32, {2, 3});
      state["layers.0.mlp.up.weight"] = {{4, 3}, {2 * rank, 0}, rows, true};
      if (rank == 0) {
        for (int i = 0; i < 10; ++i)
          state["optimizer/layers." + std::to_string(i) + "/m"] =
              core::StateEntry::whole(core::Tensor::zeros(memory, core::DType::BF16, {2}));
        state["loader/position"] = core::StateEntry::whole(core::Tensor::zeros(memory, core::DType::I64, {}));
      }
      infos.push_back(data::write_rank_file(temporary, rank, 1, state));
    }
    checkpoint_ = data::finish_checkpoint(temporary, infos, "{}");
    manifest_ = data::read_manifest(checkpoint_);
    for (const char* name : file_names) files_.push_back(testing::read_file(checkpoint_ / name));
  }
  const fs::path& checkpoint() const { return checkpoint_; }
  const std::string& file(std::size_t which) const { return files_[which]; }

  /// The checkpoint with `bytes` in place of one file.
  void write(std::size_t which, const std::string& bytes) {
    for (std::size_t i = 0; i < files_.size(); ++i)
      testing::write_file(checkpoint_ / file_names[i], i == which ? bytes : files_[i]);
    for (auto& file : manifest_.files) file = data::describe_file(checkpoint_, file.name);
    data::write_manifest(checkpoint_, manifest_);
  }

 private:
  testing::TemporaryFolder folder_;
  fs::path checkpoint_;
  data::Manifest manifest_;
  std::vector<std::string> files_;
};

Original& original() {
  static Original made;
  return made;
}

/// Bob Jenkins's lookup3 (hashlittle with initial value 0), by which HDF5 sums its structures.
std::uint32_t lookup3(const std::uint8_t* key, std::size_t length) {
  std::uint32_t a = 0xdeadbeefU + static_cast<std::uint32_t>(length);
  std::uint32_t b = a;
  std::uint32_t c = a;
  const auto add = [&](const std::uint8_t* from, std::size_t count) {
    std::array<std::uint8_t, 12> block{};
    std::copy_n(from, count, block.begin());
    const auto words = std::bit_cast<std::array<std::uint32_t, 3>>(block);
    a += words[0];
    b += words[1];
    c += words[2];
  };
  while (length > 12) {
    add(key, 12);
    a -= c, a ^= std::rotl(c, 4), c += b;
    b -= a, b ^= std::rotl(a, 6), a += c;
    c -= b, c ^= std::rotl(b, 8), b += a;
    a -= c, a ^= std::rotl(c, 16), c += b;
    b -= a, b ^= std::rotl(a, 19), a += c;
    c -= b, c ^= std::rotl(b, 4), b += a;
    key += 12;
    length -= 12;
  }
  if (length == 0) return c;
  add(key, length);
  c ^= b, c -= std::rotl(b, 14);
  a ^= c, a -= std::rotl(c, 11);
  b ^= a, b -= std::rotl(a, 25);
  c ^= b, c -= std::rotl(b, 16);
  a ^= c, a -= std::rotl(c, 4);
  b ^= a, b -= std::rotl(a, 14);
  c ^= b, c -= std::rotl(b, 24);
  return c;
}

/// Where the sum over a structure that begins at `at` lies, by the specification of HDF5's format (version 3); nothing
/// where its size is not known here.
std::optional<std::size_t> sum_of(const std::string& file, std::size_t at) {
  const auto byte = [&](std::size_t i) { return at + i < file.size() ? static_cast<std::uint8_t>(file[at + i]) : 0U; };
  const std::string_view kind = std::string_view(file).substr(at, 4);
  if (kind == "\x89HDF") return at + 44;  // superblock, versions 2 and 3
  if (kind == "OHDR") {
    const unsigned flags = byte(5);
    std::size_t size_at = 6 + ((flags & 0x20U) != 0 ? 16 : 0) + ((flags & 0x10U) != 0 ? 4 : 0);
    std::size_t size = 0;
    const std::size_t width = std::size_t{1} << (flags & 3U);
    for (std::size_t i = 0; i < width; ++i) size |= static_cast<std::size_t>(byte(size_at + i)) << (8 * i);
    size_at += width;
    return at + size_at + size;
  }
  if (kind == "FRHP") return at + 142;  // a fractal heap without filters
  if (kind == "BTHD") return at + 34;   // a version 2 B-tree
  return std::nullopt;
}

void repair_sums(std::string& file) {
  for (std::size_t at = 0; at + 8 < file.size(); ++at) {
    const char c = file[at];
    if (c != '\x89' && c != 'O' && c != 'F' && c != 'B') continue;
    const auto place = sum_of(file, at);
    if (!place || *place > file.size() - 4 || *place <= at) continue;
    const std::uint32_t sum = lookup3(reinterpret_cast<const std::uint8_t*>(file.data()) + at, *place - at);
    std::memcpy(file.data() + *place, &sum, 4);
  }
}

}  // namespace

/// HDF5 loses memory where a file is bad, and keeps lists of what is free, which looks like more lost.
extern "C" const char* __asan_default_options() { return "detect_leaks=0"; }  // NOLINT: the sanitizer's name

/// The good files are the first inputs.
extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv) {
  const fs::path corpus = (*argv)[*argc - 1];
  if (fs::is_directory(corpus))
    for (std::size_t i = 0; i < file_names.size(); ++i)
      testing::write_file(corpus / file_names[i], std::string(1, static_cast<char>(i)) + original().file(i));
  return 0;
}

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size, unsigned) {
  size = LLVMFuzzerMutate(data, size, max_size);
  std::string file(reinterpret_cast<const char*>(data), size);
  if (size > 1) {
    file.erase(0, 1);
    repair_sums(file);
    std::copy(file.begin(), file.end(), data + 1);
  }
  return size;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  original().write(data[0] % file_names.size(), {reinterpret_cast<const char*>(data + 1), size - 1});
  try {
    const data::Checkpoint checkpoint(original().checkpoint());
    for (const auto& [name, info] : checkpoint.tensors()) {
      if (info.shape.numel() > 4096) continue;
      core::StateEntry entry =
          core::StateEntry::whole(core::Tensor::zeros(core::Memory::cpu(1), info.dtype, info.shape));
      checkpoint.read(name, entry);
    }
  } catch (const core::Error&) {
  }
  return 0;
}
