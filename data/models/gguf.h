// A GGUF file (versions 2 and 3, little-endian), mapped: its typed metadata and its tensors. A model split in parts
// (NAME-00001-of-00003.gguf) is opened by any of them. Every size, count and offset is checked against the files when
// they are opened. Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
//
//     GgufFile file("SmolLM2-135M-Instruct.Q4_1.gguf");
//     std::int64_t layers = file.integer("llama.block_count");
//     std::vector<std::string> tokens = file.strings("tokenizer.ggml.tokens");
//     file.read(file.tensors().at("token_embd.weight"), /*first=*/0, /*count=*/576, row.data());
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "core/dtype.h"
#include "core/shape.h"
#include "data/files/mapped_file.h"

namespace limbeck::data {

struct GgufTensor {
  core::Shape shape;  // outermost first: the reverse of the file's order
  core::DType dtype = core::DType::F32;
  std::int64_t offset = 0;  // of the first byte, from the start of its file
  std::int64_t bytes = 0;
  std::size_t part = 0;  // which of the files
};

/// A metadata value. All integers are widened to int64, all floats to double.
using GgufValue = std::variant<bool, std::int64_t, double, std::string, std::vector<bool>, std::vector<std::int64_t>,
                               std::vector<double>, std::vector<std::string>>;

/// A tensor of a format that is not read.
struct GgufUnreadable {
  core::Shape shape;
  std::string format;  // "IQ1_S"; "type 99" where GGUF defines no such
  std::string why;     // as an error says it
};

struct GgufHead;

class GgufFile {
 public:
  enum class Formats : std::uint8_t { Read, Any };

  /// Throws unless the file is a whole GGUF file whose tensors lie inside it without overlapping, and are, unless
  /// `formats` is Any, all of formats that dequantize() takes; messages name the file and the byte, key or tensor. If
  /// it is a part of a model, the other parts lie beside it and agree.
  explicit GgufFile(const std::string& path, Formats formats = Formats::Read);

  const std::string& path() const { return path_; }
  std::size_t num_parts() const { return files_.size(); }
  std::vector<std::string> paths() const;  // of the parts
  const std::map<std::string, GgufValue>& metadata() const { return metadata_; }
  const std::map<std::string, GgufTensor>& tensors() const { return tensors_; }
  /// Those that are none of `tensors`.
  const std::map<std::string, GgufUnreadable>& unreadable() const { return unreadable_; }

  bool has(const std::string& key) const { return metadata_.contains(key); }
  // Each throws, naming file and key, where the key is missing or of another type. number() takes integers too.
  bool boolean(const std::string& key) const;
  std::int64_t integer(const std::string& key) const;
  double number(const std::string& key) const;
  const std::string& text(const std::string& key) const;
  const std::vector<std::int64_t>& integers(const std::string& key) const;
  const std::vector<double>& numbers(const std::string& key) const;
  const std::vector<std::string>& strings(const std::string& key) const;

  std::int64_t integer_or(const std::string& key, std::int64_t otherwise) const {
    return has(key) ? integer(key) : otherwise;
  }

  /// Elements [first, first + count) of the tensor, counted row by row, as float32. Throws where the range leaves the
  /// tensor.
  void read(const GgufTensor& tensor, std::int64_t first, std::int64_t count, float* out) const;
  /// Its bytes in the mapped file, which lives as long as this.
  const std::byte* data(const GgufTensor& tensor) const {
    return files_.at(tensor.part)->bytes().data() + tensor.offset;
  }

 private:
  template <class T>
  const T& value(const std::string& key, const char* expected) const;

  void add_part(std::unique_ptr<MappedFile> file, GgufHead head);

  std::string path_;
  std::vector<std::unique_ptr<MappedFile>> files_;
  std::map<std::string, GgufValue> metadata_;
  std::map<std::string, GgufTensor> tensors_;
  std::map<std::string, GgufUnreadable> unreadable_;
};

}  // namespace limbeck::data
