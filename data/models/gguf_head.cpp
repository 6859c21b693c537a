#include "data/models/gguf_head.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>
#include <string_view>

#include "data/files/file_kind.h"
#include "data/models/gguf_format.h"

namespace limbeck::data {

using core::check;
using core::fail;
using core::Shape;

static_assert(std::endian::native == std::endian::little, "GGUF is read as it lies in memory");

namespace {

constexpr std::size_t max_name = 65535;  // names of keys and tensors; longer ones are a broken file

/// Reads the head of the file from front to back; never past its end.
class Cursor {
 public:
  explicit Cursor(const MappedFile& file) : file_(file), bytes_(file.bytes()) {}

  std::size_t position() const { return position_; }
  std::size_t remaining() const { return bytes_.size() - position_; }

  template <class T>
  T number(std::string_view what) {
    need(sizeof(T), what);
    T value;
    std::memcpy(&value, bytes_.data() + position_, sizeof(T));
    position_ += sizeof(T);
    return value;
  }

  std::string text(std::string_view what, std::size_t longest = std::numeric_limits<std::size_t>::max()) {
    const std::size_t start = position_;
    const auto length = number<std::uint64_t>(what);
    check(length <= remaining() && length <= longest, "{}: byte {}: {} of {} bytes, expected at most {}", file_.path(),
          start, what, length, std::min(remaining(), longest));
    std::string value(reinterpret_cast<const char*>(bytes_.data() + position_), length);
    position_ += length;
    return value;
  }

  /// A count of things of at least `smallest` bytes each: refused where the file is too short for them.
  std::size_t count(std::string_view what, std::size_t smallest) {
    const std::size_t start = position_;
    const auto value = number<std::uint64_t>(what);
    check(value <= remaining() / smallest, "{}: byte {}: {} is {}, the {} bytes left hold at most {}", file_.path(),
          start, what, value, remaining(), remaining() / smallest);
    return value;
  }

 private:
  void need(std::size_t size, std::string_view what) const {
    check(size <= remaining(), "{}: byte {}: the file ends ({} bytes) where {} was expected", file_.path(), position_,
          bytes_.size(), what);
  }

  const MappedFile& file_;
  std::span<const std::byte> bytes_;
  std::size_t position_ = 0;
};

/// The C++ type that stands for a metadata type in GgufValue, read from the cursor.
bool read_bool(Cursor& cursor, const std::string& path) {
  const std::size_t start = cursor.position();
  const auto value = cursor.number<std::uint8_t>("a truth value");
  check(value <= 1, "{}: byte {}: a truth value is {}, expected 0 or 1", path, start, value);
  return value == 1;
}

/// Calls read with a function that reads one scalar of `type` as bool, int64, double or string, and its smallest size
/// in bytes.
template <class F>
GgufValue with_scalar(GgufType type, std::size_t start, Cursor& cursor, const std::string& path, F&& use) {
  const auto integer = [&]<class T>(T) {
    return use([&]() -> std::int64_t { return cursor.number<T>("a number"); }, sizeof(T));
  };
  switch (type) {
    case GgufType::U8:
      return integer(std::uint8_t{});
    case GgufType::I8:
      return integer(std::int8_t{});
    case GgufType::U16:
      return integer(std::uint16_t{});
    case GgufType::I16:
      return integer(std::int16_t{});
    case GgufType::U32:
      return integer(std::uint32_t{});
    case GgufType::I32:
      return integer(std::int32_t{});
    case GgufType::I64:
      return integer(std::int64_t{});
    case GgufType::U64:
      return use(
          [&]() -> std::int64_t {
            const std::size_t at = cursor.position();
            const auto value = cursor.number<std::uint64_t>("a number");
            check(value <= std::numeric_limits<std::int64_t>::max(), "{}: byte {}: {} is too large", path, at, value);
            return static_cast<std::int64_t>(value);
          },
          sizeof(std::uint64_t));
    case GgufType::F32:
      return use([&]() -> double { return cursor.number<float>("a number"); }, sizeof(float));
    case GgufType::F64:
      return use([&]() -> double { return cursor.number<double>("a number"); }, sizeof(double));
    case GgufType::Bool:
      return use([&]() -> bool { return read_bool(cursor, path); }, std::size_t{1});
    case GgufType::String:
      return use([&]() { return cursor.text("a string"); }, sizeof(std::uint64_t));
    case GgufType::Array:
      break;
  }
  fail("{}: byte {}: metadata type {}, expected 0 to 12 and no array of arrays", path, start,
       static_cast<std::uint32_t>(type));
}

GgufValue read_value(Cursor& cursor, const std::string& path) {
  std::size_t start = cursor.position();
  auto type = static_cast<GgufType>(cursor.number<std::uint32_t>("a metadata type"));
  if (type != GgufType::Array)
    return with_scalar(type, start, cursor, path, [](auto scalar, std::size_t) { return GgufValue(scalar()); });
  start = cursor.position();
  type = static_cast<GgufType>(cursor.number<std::uint32_t>("an array's type"));
  return with_scalar(type, start, cursor, path, [&](auto scalar, std::size_t smallest) {
    const std::size_t count = cursor.count("an array's length", smallest);
    std::vector<decltype(scalar())> values;
    values.reserve(count);
    for (std::size_t i = 0; i < count; ++i) values.push_back(scalar());
    return GgufValue(std::move(values));
  });
}

GgufUnreadable unreadable(const core::Shape& shape, std::uint32_t id, const std::string& path,
                          const std::string& name) {
  const GgufFormat* format = gguf_format(id);
  if (format == nullptr)
    return {shape, fmt::format("type {}", id),
            fmt::format("{}: tensor {} has type {}, which GGUF does not define", path, name, id)};
  return {
      shape, std::string(format->name),
      fmt::format("{}: tensor {} has type {}, expected one of {}", path, name, format->name, readable_gguf_formats())};
}

/// Puts the next tensor into `head`; false where it has one of this name.
bool read_tensor(Cursor& cursor, const std::string& path, const std::string& name, GgufHead& head) {
  const auto rank = cursor.number<std::uint32_t>("a tensor's number of dimensions");
  check(rank >= 1 && rank <= 4, "{}: tensor {} has {} dimensions, expected 1 to 4", path, name, rank);
  std::vector<std::int64_t> extents(rank);
  std::int64_t elements = 1;
  for (auto extent = extents.rbegin(); extent != extents.rend(); ++extent) {  // the file has the innermost first
    const auto value = cursor.number<std::uint64_t>("a tensor's extent");
    constexpr auto most =
        static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max() / 8);  // 8 bytes at most each
    check(value >= 1 && value <= most &&
              !__builtin_mul_overflow(elements, static_cast<std::int64_t>(value), &elements) &&
              elements <= static_cast<std::int64_t>(most),
          "{}: tensor {} has an extent of {}, expected a positive number that memory can hold", path, name, value);
    *extent = static_cast<std::int64_t>(value);
  }
  GgufTensor tensor;
  tensor.shape = Shape(extents);
  const auto id = cursor.number<std::uint32_t>("a tensor's type");
  const GgufFormat* known = gguf_format(id);
  if (known == nullptr || !known->dtype) {
    cursor.number<std::uint64_t>("a tensor's offset");
    return !head.tensors.contains(name) &&
           head.unreadable.emplace(name, unreadable(tensor.shape, id, path, name)).second;
  }
  tensor.dtype = *known->dtype;
  const auto& format = core::info(tensor.dtype);
  check(extents.back() % format.block_elements == 0,
        "{}: tensor {} {} has rows of {} values, expected whole {} blocks of {}", path, name, tensor.shape,
        extents.back(), format.name, format.block_elements);
  tensor.bytes = core::bytes_of(tensor.dtype, elements);
  const auto offset = cursor.number<std::uint64_t>("a tensor's offset");
  check(offset <= std::numeric_limits<std::int64_t>::max() / 2,
        "{}: tensor {} is at offset {}, which is outside the file", path, name, offset);
  tensor.offset = static_cast<std::int64_t>(offset);  // from the start of the data; moved when that is known
  return !head.unreadable.contains(name) && head.tensors.emplace(name, std::move(tensor)).second;
}

/// Moves the tensors' offsets to count from the start of the file and checks that they lie inside and apart.
void place_tensors(std::map<std::string, GgufTensor>& tensors, std::int64_t data_start, std::int64_t alignment,
                   std::int64_t file_size, const std::string& path) {
  std::vector<std::pair<GgufTensor*, const std::string*>> order;
  for (auto& [name, tensor] : tensors) {
    check(tensor.offset % alignment == 0, "{}: tensor {} is at offset {}, expected a multiple of {}", path, name,
          tensor.offset, alignment);
    check(data_start <= file_size && tensor.bytes <= file_size - data_start &&
              tensor.offset <= file_size - data_start - tensor.bytes,
          "{}: tensor {} takes {} bytes at offset {} of the data at byte {}, but the file has {} bytes", path, name,
          tensor.bytes, tensor.offset, data_start, file_size);
    tensor.offset += data_start;
    order.emplace_back(&tensor, &name);
  }
  std::sort(order.begin(), order.end(), [](const auto& a, const auto& b) { return a.first->offset < b.first->offset; });
  for (std::size_t i = 1; i < order.size(); ++i)
    check(order[i - 1].first->offset + order[i - 1].first->bytes <= order[i].first->offset,
          "{}: tensors {} and {} overlap at byte {}", path, *order[i - 1].second, *order[i].second,
          order[i].first->offset);
}

}  // namespace

const char* gguf_type_name(const GgufValue& value) {
  static constexpr std::array names = {
      "a truth value",        "an integer",          "a number",           "a string", "an array of truth values",
      "an array of integers", "an array of numbers", "an array of strings"};
  return names.at(value.index());
}

GgufHead read_gguf_head(const MappedFile& file) {
  const std::string& path = file.path();
  Cursor cursor(file);
  const auto magic = cursor.number<std::array<char, 4>>("the magic GGUF");
  if (!file.text().starts_with("GGUF")) refuse_other_kind(path, file.text(), "a GGUF file");
  check(std::string_view(magic.data(), 4) == "GGUF", "{}: is not a GGUF file: it does not start with GGUF", path);
  const auto version = cursor.number<std::uint32_t>("the version");
  check((version & 0xffffU) != 0, "{}: is a big-endian GGUF file, expected little-endian", path);
  check(version == 2 || version == 3, "{}: has GGUF version {}, expected 2 or 3{}", path, version,
        version == 1 ? " (1 is of August 2023, with lengths of 32 bits)" : "");
  // The smallest tensor takes 8 + 4 + 8 + 4 + 8 bytes after an empty name's length, the smallest key 8 + 4 + 1.
  const std::size_t num_tensors = cursor.count("the number of tensors", 32);
  const std::size_t num_keys = cursor.count("the number of metadata keys", 13);

  GgufHead head;
  for (std::size_t i = 0; i < num_keys; ++i) {
    const std::size_t start = cursor.position();
    std::string key = cursor.text("a metadata key", max_name);
    const auto [_, is_new] = head.metadata.emplace(key, read_value(cursor, path));
    check(is_new, "{}: byte {}: metadata key {} appears twice", path, start, key);
  }
  for (std::size_t i = 0; i < num_tensors; ++i) {
    const std::size_t start = cursor.position();
    std::string name = cursor.text("a tensor's name", max_name);
    check(read_tensor(cursor, path, name, head), "{}: byte {}: tensor {} appears twice", path, start, name);
  }

  const std::int64_t alignment = head.metadata.contains("general.alignment")
                                     ? gguf_value<std::int64_t>(head.metadata, "general.alignment", "an integer", path)
                                     : gguf_alignment;
  check(alignment >= 1 && alignment <= (1 << 30) && std::has_single_bit(static_cast<std::uint64_t>(alignment)),
        "{}: general.alignment is {}, expected a power of two", path, alignment);
  const auto head_end = static_cast<std::int64_t>(cursor.position());
  const std::int64_t data_start = (head_end + alignment - 1) / alignment * alignment;
  place_tensors(head.tensors, data_start, alignment, static_cast<std::int64_t>(file.bytes().size()), path);
  return head;
}

}  // namespace limbeck::data
