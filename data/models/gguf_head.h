// The head of one GGUF file: metadata and where the tensors lie, checked against the file's size.
//
//     MappedFile file("model.gguf");
//     GgufHead head = read_gguf_head(file);
//     std::int64_t layers = gguf_value<std::int64_t>(head.metadata, "llama.block_count", "an integer", file.path());
#pragma once

#include <map>
#include <string>

#include "core/error.h"
#include "data/models/gguf.h"

namespace limbeck::data {

struct GgufHead {
  std::map<std::string, GgufValue> metadata;
  std::map<std::string, GgufTensor> tensors;
  std::map<std::string, GgufUnreadable> unreadable;  // how many bytes these take is not known
};

/// Throws, naming the file and the byte, key or tensor, unless the file is a whole GGUF file (versions 2 and 3,
/// little-endian) whose tensors lie inside it without overlapping.
GgufHead read_gguf_head(const MappedFile& file);

/// What a value is, for messages: "an integer".
const char* gguf_type_name(const GgufValue& value);

/// The value of a key; throws, naming `path` and the key, where it is missing or of another type than `expected` says.
template <class T>
const T& gguf_value(const std::map<std::string, GgufValue>& metadata, const std::string& key, const char* expected,
                    const std::string& path) {
  const auto found = metadata.find(key);
  core::check(found != metadata.end(), "{}: has no metadata key {}, expected {}", path, key, expected);
  const T* value = std::get_if<T>(&found->second);
  core::check(value != nullptr, "{}: {} is {}, expected {}", path, key, gguf_type_name(found->second), expected);
  return *value;
}

}  // namespace limbeck::data
