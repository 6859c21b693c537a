#include "data/models/gguf_write.h"

#include <string_view>
#include <type_traits>

#include "data/models/gguf_blocks.h"
#include "data/models/gguf_format.h"

namespace limbeck::data {

using core::check;
namespace fs = std::filesystem;

namespace {

/// The head, grown in memory: it is small beside the tensors.
class Head {
 public:
  template <class T>
  void number(T value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  void text(std::string_view value) {
    number<std::uint64_t>(value.size());
    bytes_ += value;
  }
  void value(bool v) { number<std::uint8_t>(v ? 1 : 0); }
  void value(std::uint32_t v) { number(v); }
  void value(std::int32_t v) { number(v); }
  void value(float v) { number(v); }
  void value(const std::string& v) { text(v); }
  template <class T>
  void value(const std::vector<T>& values) {
    number(type_of<T>());
    number<std::uint64_t>(values.size());
    for (const auto& v : values) value(v);
  }

  template <class T>
  static constexpr GgufType type_of() {
    if constexpr (std::is_same_v<T, bool>)
      return GgufType::Bool;
    else if constexpr (std::is_same_v<T, std::uint32_t>)
      return GgufType::U32;
    else if constexpr (std::is_same_v<T, std::int32_t>)
      return GgufType::I32;
    else if constexpr (std::is_same_v<T, float>)
      return GgufType::F32;
    else if constexpr (std::is_same_v<T, std::string>)
      return GgufType::String;
    else
      return GgufType::Array;
  }
  const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_;
};

}  // namespace

std::int64_t gguf_padding(std::int64_t bytes) { return (gguf_alignment - bytes % gguf_alignment) % gguf_alignment; }

std::string gguf_head(const GgufKeys& keys, const std::vector<GgufPlan>& plan, const std::string& where) {
  Head head;
  for (const char c : std::string_view("GGUF")) head.number(c);
  head.number<std::uint32_t>(3);
  head.number<std::uint64_t>(plan.size());
  head.number<std::uint64_t>(keys.size());
  for (const auto& [name, key] : keys) {
    head.text(name);
    std::visit(
        [&]<class T>(const T& value) {
          head.number(Head::type_of<T>());
          head.value(value);
        },
        key);
  }
  std::int64_t offset = 0;
  for (const auto& tensor : plan) {
    const auto extents = tensor.shape.extents();
    check(!extents.empty() && tensor.shape.numel() > 0, "{}: tensor {} has shape {}, which GGUF cannot hold", where,
          tensor.name, tensor.shape);
    core::bytes_of(tensor.dtype, extents.back());  // throws unless rows are whole blocks
    head.text(tensor.name);
    head.number(static_cast<std::uint32_t>(extents.size()));
    for (auto extent = extents.rbegin(); extent != extents.rend(); ++extent)
      head.number(static_cast<std::uint64_t>(*extent));
    head.number(gguf_format(tensor.dtype).id);
    head.number(static_cast<std::uint64_t>(offset));
    const std::int64_t bytes = core::bytes_of(tensor.dtype, tensor.shape.numel());
    offset += bytes + gguf_padding(bytes);
  }
  const auto padding = static_cast<std::size_t>(gguf_padding(std::ssize(head.bytes())));
  return head.bytes() + std::string(padding, '\0');
}

GgufWriter::GgufWriter(fs::path path, const GgufKeys& keys, std::vector<GgufPlan> plan)
    : path_(std::move(path)), temporary_(path_), plan_(std::move(plan)) {
  const std::string head = gguf_head(keys, plan_, path_.string());
  file_.emplace(temporary_.name());
  put(head.data(), head.size());
}

void GgufWriter::put(const void* data, std::size_t bytes) {
  file_->write(data, bytes);
  position_ += static_cast<std::int64_t>(bytes);
}

void GgufWriter::pad() {
  const std::string zeros(static_cast<std::size_t>(gguf_padding(position_)), '\0');
  put(zeros.data(), zeros.size());
}

void GgufWriter::write(std::span<const float> values) {
  check(next_ < plan_.size(), "{}: {} tensors were planned, values of one more were written", path_.string(),
        plan_.size());
  const GgufPlan& tensor = plan_[next_];
  const auto count = static_cast<std::int64_t>(values.size());
  check(count <= tensor.shape.numel() - written_, "{}: tensor {} {} was given {} values", path_.string(), tensor.name,
        tensor.shape, written_ + count);
  stored_.resize(static_cast<std::size_t>(core::bytes_of(tensor.dtype, count)));
  try {
    quantize(tensor.dtype, values, stored_.data());
  } catch (const core::Error& error) {
    core::fail("{}: tensor {}: {}", path_.string(), tensor.name, error.what());
  }
  put(stored_.data(), stored_.size());
  written_ += count;
  if (written_ < tensor.shape.numel()) return;
  pad();
  written_ = 0;
  ++next_;
}

void GgufWriter::finish() {
  check(next_ == plan_.size(), "{}: {} of {} tensors were written", path_.string(), next_, plan_.size());
  file_->close();
  temporary_.keep();
}

}  // namespace limbeck::data
