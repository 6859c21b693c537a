#include "data/models/safetensors.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>

#include "data/files/file_kind.h"
#include "data/files/json_text.h"
#include "kernels/half.h"

namespace limbeck::data {

using core::check;
using core::DType;
using core::fail;
using core::Shape;
using Json = nlohmann::json;
namespace fs = std::filesystem;

namespace {

constexpr std::int64_t max_header_bytes = 100'000'000;  // as the reference implementation

constexpr std::size_t release_from = std::size_t{1} << 17U;

struct NamedDtype {
  std::string_view name;
  DType dtype;
};
constexpr std::array<NamedDtype, 8> dtypes = {{{"F32", DType::F32},
                                               {"F64", DType::F64},
                                               {"F16", DType::F16},
                                               {"BF16", DType::BF16},
                                               {"I64", DType::I64},
                                               {"I32", DType::I32},
                                               {"I8", DType::I8},
                                               {"U8", DType::U8}}};

constexpr std::string_view e4m3_name = "F8_E4M3";

DType dtype_named(const std::string& name) {
  for (const auto& d : dtypes)
    if (d.name == name) return d.dtype;
  if (name == e4m3_name) return DType::U8;
  fail("dtype is {}, expected F32, F64, F16, BF16, F8_E4M3, I64, I32, I8 or U8", name);
}
std::string_view safetensors_name(DType dtype) {
  for (const auto& d : dtypes)
    if (d.dtype == dtype) return d.name;
  fail("safetensors: dtype {} cannot be written, expected float32, float64, bfloat16, int64 or uint8", dtype);
}

std::int64_t whole_number(const Json& json, const char* what) {
  check(json.is_number_unsigned() && json.get<std::uint64_t>() <= INT64_MAX, "{} is {}, expected a whole number", what,
        json.is_number() ? json.dump() : json.type_name());
  return json.get<std::int64_t>();
}

struct Range {
  std::int64_t begin, end;
  std::string name;
};

SafetensorsEntry entry_from(const Json& json, std::span<const std::byte> data, const std::string& name,
                            std::vector<Range>& ranges) {
  check(json.is_object(), "is {}, expected an object", json.type_name());
  SafetensorsEntry entry;
  const auto dtype = json.at("dtype").get<std::string>();
  entry.dtype = dtype_named(dtype);
  entry.is_e4m3 = dtype == e4m3_name;
  check(json.at("shape").is_array() && json.at("data_offsets").is_array() && json.at("data_offsets").size() == 2,
        "expected a shape and two data_offsets");
  std::vector<std::int64_t> extents;
  for (const auto& extent : json.at("shape")) extents.push_back(whole_number(extent, "an extent"));
  entry.shape = Shape(extents);
  const std::int64_t begin = whole_number(json.at("data_offsets")[0], "a data offset");
  const std::int64_t end = whole_number(json.at("data_offsets")[1], "a data offset");
  check(begin <= end && end <= static_cast<std::int64_t>(data.size()),
        "data_offsets are [{},{}], expected to lie in the {} bytes after the header", begin, end, data.size());
  const std::int64_t elements = entry.shape.numel();
  const std::int64_t element_bytes = core::info(entry.dtype).block_bytes;
  check(elements <= INT64_MAX / element_bytes && elements * element_bytes == end - begin,
        "{} {} has {} elements, but {} bytes lie between its offsets", entry.dtype, entry.shape, elements, end - begin);
  entry.data = data.data() + begin;
  if (begin < end) ranges.push_back({begin, end, name});
  return entry;
}

/// Calls f with the element type of a stored dtype; float16 is raw 16 bits.
template <class F>
void with_stored(DType dtype, F&& f) {
  if (dtype == DType::F32)
    f([](float x) { return x; });
  else if (dtype == DType::F64)
    f([](double x) { return x; });
  else if (dtype == DType::BF16)
    f([](core::bf16 x) { return static_cast<float>(x); });
  else if (dtype == DType::F16)
    f([](std::uint16_t x) { return kernels::float_from_half(x); });
  else
    fail("safetensors: {} is no floating type", dtype);
}

template <class Stored, class Value, class To>
void convert(Value (*value)(Stored), const std::byte* from, std::int64_t stride, std::int64_t count, To* to) {
  for (std::int64_t i = 0; i < count; ++i) {
    Stored x;
    std::memcpy(&x, from + i * stride * static_cast<std::int64_t>(sizeof(Stored)), sizeof(Stored));  // not aligned
    if constexpr (std::is_same_v<To, core::bf16>)
      to[i] = core::bf16(static_cast<float>(value(x)));
    else
      to[i] = static_cast<To>(value(x));
  }
}

}  // namespace

SafetensorsFile::SafetensorsFile(const fs::path& path) : file_(path.string()) {
  const auto bytes = file_.bytes();
  check(bytes.size() >= 8, "{}: has {} bytes, expected a safetensors header", this->path(), bytes.size());
  if (!file_.text().substr(8).starts_with('{')) refuse_other_kind(this->path(), file_.text(), "a safetensors file");
  std::uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, bytes.data(), 8);
  check(header_bytes >= 2 && header_bytes <= bytes.size() - 8 && header_bytes <= max_header_bytes,
        "{}: header length is {}, expected 2 to {}", this->path(), header_bytes,
        std::min<std::uint64_t>(bytes.size() - 8, max_header_bytes));
  const auto* text = reinterpret_cast<const char*>(bytes.data() + 8);
  const auto header = parse_json<Json>({text, header_bytes}, this->path() + ": header");
  std::string place = "header";
  try {
    check(header.is_object(), "is {}, expected an object", header.type_name());
    std::vector<Range> ranges;
    const auto data = bytes.subspan(8 + header_bytes);
    for (const auto& [name, json] : header.items()) {
      if (name == "__metadata__") {
        for (const auto& [key, value] : json.items())
          if (value.is_string()) metadata_[key] = value.get<std::string>();
        continue;
      }
      place = "tensor " + name;
      tensors_[name] = entry_from(json, data, name, ranges);
    }
    // As the reference implementation: every byte is a tensor's, and one tensor's alone.
    std::sort(ranges.begin(), ranges.end(), [](const Range& a, const Range& b) { return a.begin < b.begin; });
    std::int64_t end = 0;
    for (const Range& range : ranges) {
      place = "tensor " + range.name;
      check(range.begin >= end, "bytes from {} overlap those of an earlier tensor up to {}", range.begin, end);
      check(range.begin == end, "bytes {} to {} before it belong to no tensor", end, range.begin);
      end = range.end;
    }
    place = "data";
    check(end == static_cast<std::int64_t>(data.size()), "has {} bytes, but the tensors take {}", data.size(), end);
  } catch (const Json::exception& error) {
    fail("{}: {}: {}", this->path(), place, json_reason(error));
  } catch (const core::Error& error) {
    fail("{}: {}: {}", this->path(), place, error.what());
  }
}

void SafetensorsFile::read(const SafetensorsEntry& tensor, std::int64_t first, std::int64_t count, DType to,
                           std::byte* out, std::int64_t stride) {
  const std::int64_t end = first + (count > 0 ? (count - 1) * stride + 1 : 0);
  check(first >= 0 && count >= 0 && stride > 0 && end <= tensor.shape.numel(),
        "safetensors: elements {} to {} of a tensor {}", first, end, tensor.shape);
  const std::byte* from = tensor.data + core::bytes_of(tensor.dtype, first);
  if (count == 0) return;
  const std::span<const std::byte> bytes(
      from, static_cast<std::size_t>(core::bytes_of(tensor.dtype, (count - 1) * stride + 1)));
  // Of a range that is large enough for that to cost nothing, and that nothing else is read of.
  const auto release = [&] {
    if (bytes.size() >= release_from && stride == 1) release_mapped(bytes);
  };
  if (to == tensor.dtype && stride == 1) {
    std::memcpy(out, from, bytes.size());
    return release();
  }
  with_stored(tensor.dtype, [&](auto value) {
    if (to == DType::F32)
      convert(+value, from, stride, count, reinterpret_cast<float*>(out));
    else if (to == DType::F64)
      convert(+value, from, stride, count, reinterpret_cast<double*>(out));
    else if (to == DType::BF16)
      convert(+value, from, stride, count, reinterpret_cast<core::bf16*>(out));
    else
      fail("safetensors: {} cannot be read as {}, expected float32, float64 or bfloat16", tensor.dtype, to);
  });
  release();
}

std::string SafetensorsFile::metadata(const std::string& name) const {
  const auto found = metadata_.find(name);
  return found == metadata_.end() ? "" : found->second;
}

std::string safetensors_head(const std::vector<SafetensorsPlan>& plan,
                             const std::map<std::string, std::string>& metadata, const std::string& where) {
  auto header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  std::set<std::string> names;
  std::int64_t offset = 0;
  for (const auto& tensor : plan) {
    check(names.insert(tensor.name).second, "{}: tensor {} is planned twice", where, tensor.name);
    const auto extents = tensor.shape.extents();
    // Looking for the name in an ordered object would take as long as the object is.
    header.push_back({tensor.name,
                      {{"dtype", safetensors_name(tensor.dtype)},
                       {"shape", std::vector<std::int64_t>(extents.begin(), extents.end())},
                       {"data_offsets", {offset, offset + tensor.bytes()}}}});
    offset += tensor.bytes();
  }
  std::string text = header.dump();
  text.append((64 - (8 + text.size()) % 64) % 64, ' ');
  const std::uint64_t bytes = text.size();
  return std::string(reinterpret_cast<const char*>(&bytes), sizeof bytes) + text;
}

SafetensorsWriter::SafetensorsWriter(const fs::path& path, std::vector<SafetensorsPlan> plan,
                                     const std::map<std::string, std::string>& metadata)
    : path_(path), temporary_(path), file_(temporary_.name()), plan_(std::move(plan)) {
  file_.write(safetensors_head(plan_, metadata, path_.string()));
}

void SafetensorsWriter::write(const core::Tensor& tensor) {
  check(next_ < plan_.size(), "{}: {} tensors were planned, one more was written", path_.string(), plan_.size());
  const SafetensorsPlan& planned = plan_[next_++];
  check(tensor.dtype() == planned.dtype && tensor.shape() == planned.shape, "{}: tensor {} is {} {}, planned was {} {}",
        path_.string(), planned.name, tensor.dtype(), tensor.shape(), planned.dtype, planned.shape);
  file_.write(tensor.host_raw(), static_cast<std::size_t>(tensor.bytes()));
}

void SafetensorsWriter::finish() {
  check(next_ == plan_.size(), "{}: {} of {} tensors were written", path_.string(), next_, plan_.size());
  file_.close();
  temporary_.keep();
}

SafetensorsShards safetensors_shards(const std::vector<SafetensorsPlan>& plan, std::int64_t max_shard_bytes) {
  SafetensorsShards shards;
  shards.files.resize(1);
  std::int64_t total = 0, filled = 0;
  for (const auto& tensor : plan) {
    if (!shards.files.back().plan.empty() && filled + tensor.bytes() > max_shard_bytes) {
      shards.files.emplace_back();
      filled = 0;
    }
    shards.files.back().plan.push_back(tensor);
    filled += tensor.bytes();
    total += tensor.bytes();
  }
  const std::size_t count = shards.files.size();
  for (std::size_t i = 0; i < count; ++i)
    shards.files[i].name =
        count == 1 ? "model.safetensors" : fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, count);
  if (count == 1) return shards;
  auto places = Json::object();
  for (const auto& file : shards.files)
    for (const auto& tensor : file.plan) places[tensor.name] = file.name;
  shards.index = nlohmann::ordered_json{{"metadata", {{"total_size", total}}}, {"weight_map", places}}.dump(1) + "\n";
  return shards;
}

}  // namespace limbeck::data
