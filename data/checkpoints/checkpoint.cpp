#include "data/checkpoints/checkpoint.h"

#include <algorithm>
#include <charconv>

#include "data/checkpoints/checkpoint_paths.h"
#include "data/files/random_access_file.h"

namespace limbeck::data {

using core::check;
using core::DType;
namespace fs = std::filesystem;

namespace {

Manifest checked_manifest(const fs::path& folder) {
  Manifest manifest = read_manifest(folder);
  const auto step = step_of(folder);
  check(!step || *step == manifest.step, "{}: its manifest is of step {}", folder.string(), manifest.step);
  check(std::any_of(manifest.files.begin(), manifest.files.end(), [](const auto& f) { return f.name == index_name; }),
        "{}: its manifest lists no {}", folder.string(), index_name);
  return manifest;
}

Manifest verified_manifest(const fs::path& folder, Checkpoint::Verify verify) {
  if (verify == Checkpoint::Verify::Hashes) {
    const auto problem = find_damage(folder);
    check(!problem, "{}", problem.value_or(""));
  }
  Manifest manifest = checked_manifest(folder);
  for (const auto& file : manifest.files) {
    const auto problem = check_file(folder, file, false);
    check(!problem, "{}", problem.value_or(""));
  }
  return manifest;
}

}  // namespace

std::optional<std::int64_t> step_of(const fs::path& folder) {
  const std::string name = folder.filename().string();
  if (!name.starts_with("step_")) return std::nullopt;
  std::int64_t step = 0;
  const auto [end, error] = std::from_chars(name.data() + 5, name.data() + name.size(), step);
  if (error != std::errc() || end != name.data() + name.size() || step < 0) return std::nullopt;
  return step;
}

std::vector<fs::path> list_checkpoints(const fs::path& checkpoints) {
  std::vector<std::pair<std::int64_t, fs::path>> found;
  if (fs::is_directory(checkpoints))
    for (const auto& item : fs::directory_iterator(checkpoints))
      if (const auto step = step_of(item.path()); step && item.is_directory()) found.emplace_back(*step, item.path());
  std::sort(found.rbegin(), found.rend());
  std::vector<fs::path> folders;
  for (auto& [step, folder] : found) folders.push_back(std::move(folder));
  return folders;
}

std::optional<std::string> find_damage(const fs::path& folder, int part, int parts) {
  check(parts > 0 && part >= 0 && part < parts, "{}: part {} of {}", folder.string(), part, parts);
  try {
    const Manifest manifest = checked_manifest(folder);
    for (const auto& file : manifest.files)  // sizes first: they cost nothing
      if (auto problem = check_file(folder, file, false)) return problem;
    for (std::size_t i = static_cast<std::size_t>(part); i < manifest.files.size();
         i += static_cast<std::size_t>(parts))
      if (auto problem = check_file(folder, manifest.files[i], true)) return problem;
    return std::nullopt;
  } catch (const core::Error& error) {
    return error.what();
  }
}

std::optional<fs::path> newest_good_checkpoint(const fs::path& checkpoints,
                                               const std::function<void(const std::string&)>& on_bad) {
  for (const auto& folder : list_checkpoints(checkpoints)) {
    const auto problem = find_damage(folder);
    if (!problem) return folder;
    on_bad(*problem);
  }
  return std::nullopt;
}

Checkpoint::Checkpoint(fs::path folder, Verify verify)
    : folder_(std::move(folder)), manifest_(verified_manifest(folder_, verify)) {
  for (auto& [name, tensor] : stored_tensors(folder_, manifest_)) {
    tensors_[name] = tensor.info;
    boxes_[name] = std::move(tensor.boxes);
  }
}

void Checkpoint::fill(const std::string& name, const core::StateInfo& info, core::StateEntry& entry) const {
  const DType wanted = entry.tensor.dtype();
  check((info.dtype == DType::I64) == (wanted == DType::I64), "{}: {} is {}, which is not read as {}", source(), name,
        info.dtype, wanted);
  core::Tensor stored = info.dtype == wanted
                            ? entry.tensor
                            : core::Tensor::empty(entry.tensor.memory(), info.dtype, entry.tensor.shape());
  const TensorBox box{name, info.dtype, stored_shape(info.shape), stored_offset(entry.offset),
                      stored_shape(stored.shape())};
  std::byte* const out = stored.mutable_host_raw();
  for (const StoredBox& part : boxes_.at(name)) {
    std::optional<RandomAccessFile> file;  // one at a time, and none where nothing of it is needed
    for_each_shared_run(part.box, box, [&](std::int64_t from, std::int64_t to, std::int64_t count) {
      if (!file) file.emplace(folder_ / part.file);
      file->read(part.first_byte + core::bytes_of(info.dtype, from),
                 {out + core::bytes_of(info.dtype, to), static_cast<std::size_t>(core::bytes_of(info.dtype, count))});
    });
  }
  if (info.dtype != wanted) entry.tensor.copy_from(stored.to(wanted));
}

}  // namespace limbeck::data
