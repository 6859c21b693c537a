#include "data/models/gguf.h"

#include <filesystem>
#include <utility>

#include "core/error.h"
#include "data/models/gguf_blocks.h"
#include "data/models/gguf_head.h"

namespace limbeck::data {

using core::check;
namespace fs = std::filesystem;

namespace {

/// What a file says of the parts that it is one of (gguf-split of llama.cpp). A merged file keeps a count of 0.
struct Split {
  std::int64_t number = 0;
  std::int64_t count = 1;
  std::int64_t num_tensors = 0;  // of all parts
};
constexpr std::int64_t max_parts = 99999;  // names have five digits

Split split_of(const std::map<std::string, GgufValue>& metadata, const std::string& path) {
  const auto integer = [&](const char* key) {
    return gguf_value<std::int64_t>(metadata, key, "an integer, for it is one of several parts", path);
  };
  Split split;
  if (!metadata.contains("split.count")) return split;
  split.count = integer("split.count");
  check(split.count >= 0 && split.count <= max_parts, "{}: split.count is {}, expected 0 to {}", path, split.count,
        max_parts);
  if (split.count <= 1) return {};
  split.number = integer("split.no");
  check(split.number >= 0 && split.number < split.count, "{}: split.no is {}, expected 0 to {}", path, split.number,
        split.count - 1);
  split.num_tensors = integer("split.tensors.count");
  return split;
}

/// Keys that each part has of its own.
bool is_of_part(const std::string& key) { return key == "split.no" || key == "general.alignment"; }

}  // namespace

GgufFile::GgufFile(const std::string& path, Formats formats) : path_(path) {
  const auto read_head = [formats](const MappedFile& part) {
    GgufHead head = read_gguf_head(part);
    check(formats == Formats::Any || head.unreadable.empty(), "{}",
          head.unreadable.empty() ? "" : head.unreadable.begin()->second.why);
    return head;
  };
  auto file = std::make_unique<MappedFile>(path);
  GgufHead head = read_head(*file);
  const Split split = split_of(head.metadata, path);
  if (split.count <= 1) {
    add_part(std::move(file), std::move(head));
    return;
  }

  const auto ending = [&](std::int64_t number) { return fmt::format("-{:05}-of-{:05}.gguf", number + 1, split.count); };
  const std::string own = ending(split.number);
  check(path.ends_with(own), "{}: is part {} of {}, expected a name that ends in {}", path, split.number + 1,
        split.count, own);
  for (std::int64_t number = 0; number < split.count; ++number) {
    if (number == split.number) {
      add_part(std::move(file), std::move(head));
      continue;
    }
    const std::string name = path.substr(0, path.size() - own.size()) + ending(number);
    check(fs::exists(name), "{}: is part {} of {}, but there is no {}", path, split.number + 1, split.count, name);
    auto other = std::make_unique<MappedFile>(name);
    GgufHead other_head = read_head(*other);
    const Split said = split_of(other_head.metadata, name);
    check(said.count == split.count, "{}: split.count is {}, expected {} as in {}", name, said.count, split.count,
          path);
    check(said.number == number, "{}: split.no is {}, expected {}", name, said.number, number);
    add_part(std::move(other), std::move(other_head));
  }
  const std::size_t num_tensors = tensors_.size() + unreadable_.size();
  check(static_cast<std::int64_t>(num_tensors) == split.num_tensors,
        "{}: split.tensors.count is {}, but the {} parts hold {} tensors", path, split.num_tensors, split.count,
        num_tensors);
}

void GgufFile::add_part(std::unique_ptr<MappedFile> file, GgufHead head) {
  for (auto& [key, value] : head.metadata) {
    const auto [place, is_new] = metadata_.try_emplace(key, std::move(value));
    check(is_new || is_of_part(key) || place->second == value, "{}: {} is not what an earlier part says", file->path(),
          key);
  }
  for (auto& [name, tensor] : head.tensors) {
    tensor.part = files_.size();
    check(tensors_.emplace(name, tensor).second, "{}: tensor {} is in an earlier part too", file->path(), name);
  }
  for (auto& [name, tensor] : head.unreadable)
    check(!tensors_.contains(name) && unreadable_.emplace(name, std::move(tensor)).second,
          "{}: tensor {} is in an earlier part too", file->path(), name);
  files_.push_back(std::move(file));
}

std::vector<std::string> GgufFile::paths() const {
  std::vector<std::string> paths;
  for (const auto& file : files_) paths.push_back(file->path());
  return paths;
}

bool GgufFile::boolean(const std::string& key) const { return value<bool>(key, "a truth value"); }
std::int64_t GgufFile::integer(const std::string& key) const { return value<std::int64_t>(key, "an integer"); }
double GgufFile::number(const std::string& key) const {
  const auto found = metadata_.find(key);
  if (found != metadata_.end())
    if (const auto* integer = std::get_if<std::int64_t>(&found->second)) return static_cast<double>(*integer);
  return value<double>(key, "a number");
}
const std::string& GgufFile::text(const std::string& key) const { return value<std::string>(key, "a string"); }
const std::vector<std::int64_t>& GgufFile::integers(const std::string& key) const {
  return value<std::vector<std::int64_t>>(key, "an array of integers");
}
const std::vector<double>& GgufFile::numbers(const std::string& key) const {
  return value<std::vector<double>>(key, "an array of numbers");
}
const std::vector<std::string>& GgufFile::strings(const std::string& key) const {
  return value<std::vector<std::string>>(key, "an array of strings");
}

template <class T>
const T& GgufFile::value(const std::string& key, const char* expected) const {
  return gguf_value<T>(metadata_, key, expected, path_);
}

void GgufFile::read(const GgufTensor& tensor, std::int64_t first, std::int64_t count, float* out) const {
  check(first >= 0 && count >= 0 && first <= tensor.shape.numel() - count,
        "{}: elements {} to {} of a tensor {} were asked for", path_, first, first + count, tensor.shape);
  dequantize(tensor.dtype, data(tensor), first, count, out);
}

}  // namespace limbeck::data
