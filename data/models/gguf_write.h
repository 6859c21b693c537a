// A GGUF file (version 3) written front to back, so that no more than what is being written is held in memory.
//
//     GgufWriter writer("out.gguf", {{"general.architecture", "llama"s}, {"llama.block_count", 30U}},
//                       {{"token_embd.weight", DType::Q8_0, {49152, 576}}});
//     writer.write(rows);                              // float32 values in order, as often as need be
//     writer.finish();                                 // on the disk under its name
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "core/shape.h"
#include "data/files/atomic_file.h"
#include "data/files/output_file.h"
#include "data/models/gguf_keys.h"

namespace limbeck::data {

struct GgufPlan {
  std::string name;
  core::DType dtype = core::DType::F32;  // F32, F16, BF16, or Q8_0 where rows are whole blocks
  core::Shape shape;                     // outermost first
};

/// What stands in front of the tensors of a file, padding included. Throws, with `where` in front, for a tensor that
/// GGUF cannot hold.
std::string gguf_head(const GgufKeys& keys, const std::vector<GgufPlan>& plan, const std::string& where);
/// Bytes up to the next place where a tensor may begin.
std::int64_t gguf_padding(std::int64_t bytes);

class GgufWriter {
 public:
  /// Writes the head to `path`.tmp, which goes unless it is finished.
  GgufWriter(std::filesystem::path path, const GgufKeys& keys, std::vector<GgufPlan> plan);
  GgufWriter(const GgufWriter&) = delete;
  GgufWriter& operator=(const GgufWriter&) = delete;

  /// The next values of the tensor that is being written, the plan's first that is not whole; whole blocks. Throws,
  /// naming the tensor, for too many and for a value that its dtype cannot hold.
  void write(std::span<const float> values);
  /// Throws if values are missing. Renames the file to its name once it is on the disk, in place of an older one.
  void finish();

 private:
  void put(const void* data, std::size_t bytes);
  void pad();

  std::filesystem::path path_;
  TemporaryFile temporary_;
  std::vector<GgufPlan> plan_;
  std::size_t next_ = 0;      // tensor
  std::int64_t written_ = 0;  // of its values
  std::int64_t position_ = 0;
  std::vector<std::byte> stored_;
  std::optional<OutputFile> file_;
};

}  // namespace limbeck::data
