// The safetensors format of Hugging Face, in and out: eight bytes of header length, a JSON header, the tensors' bytes.
//
//     SafetensorsFile file("model.safetensors");                       // mapped; every header field is checked
//     const SafetensorsEntry& q = file.tensors().at("model.layers.0.self_attn.q_proj.weight");
//     file.read(q, /*first=*/0, /*count=*/576, DType::F32, out);       // elements, converted
//
//     SafetensorsWriter writer("model.safetensors", {{"w", DType::BF16, {4, 8}}}, {{"format", "pt"}});
//     writer.write(tensor);                                            // in the order announced
//     writer.finish();                                                 // on the disk under its name
//
// float32, float64, float16, bfloat16, e4m3, int64, and what quantised weights are kept in (int32, int8, uint8) are
// read (any other dtype is named); float32, float64, bfloat16, int64 and uint8 are written.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "data/files/atomic_file.h"
#include "data/files/mapped_file.h"
#include "data/files/output_file.h"

namespace limbeck::data {

struct SafetensorsEntry {
  core::DType dtype = core::DType::F32;
  core::Shape shape;
  const std::byte* data = nullptr;  // in the mapped file; not aligned
  bool is_e4m3 = false;             // 8-bit floating point (kernels/e4m3.h); dtype is U8
};

class SafetensorsFile {
 public:
  /// Throws, naming the file and the tensor, for a header that is no JSON, a dtype that is not read, offsets outside
  /// the file or overlapping, or a shape whose bytes are not those between the offsets.
  explicit SafetensorsFile(const std::filesystem::path& path);

  const std::string& path() const { return file_.path(); }
  const std::map<std::string, SafetensorsEntry>& tensors() const { return tensors_; }
  /// Whether an address is in the mapped file.
  bool has(const std::byte* address) const {
    return address >= file_.bytes().data() && address < file_.bytes().data() + file_.bytes().size();
  }
  /// A text of the header's "__metadata__"; empty where it has none of this name.
  std::string metadata(const std::string& name) const;

  /// Writes elements first, first + stride, ..., `count` of them, to `out`, converted among the floating types; `to` is
  /// float32, float64 or bfloat16 (int64 for an int64 tensor).
  static void read(const SafetensorsEntry& tensor, std::int64_t first, std::int64_t count, core::DType to,
                   std::byte* out, std::int64_t stride = 1);

 private:
  MappedFile file_;
  std::map<std::string, SafetensorsEntry> tensors_;
  std::map<std::string, std::string> metadata_;
};

struct SafetensorsPlan {
  std::string name;
  core::DType dtype = core::DType::F32;
  core::Shape shape;
  std::int64_t bytes() const { return core::bytes_of(dtype, shape.numel()); }
};

class SafetensorsWriter {
 public:
  /// Writes the header to `path`.tmp, which goes unless it is finished; the data starts at a multiple of 64 bytes.
  SafetensorsWriter(const std::filesystem::path& path, std::vector<SafetensorsPlan> plan,
                    const std::map<std::string, std::string>& metadata);
  /// The next tensor of the plan; throws for another shape or dtype.
  void write(const core::Tensor& tensor);
  /// Throws if tensors are missing.
  void finish();

 private:
  std::filesystem::path path_;
  TemporaryFile temporary_;
  OutputFile file_;
  std::vector<SafetensorsPlan> plan_;
  std::size_t next_ = 0;
};

/// What stands in front of the tensors of a file, a multiple of 64 bytes. Throws, with `where` in front, for a name
/// that comes twice and a dtype that is not written.
std::string safetensors_head(const std::vector<SafetensorsPlan>& plan,
                             const std::map<std::string, std::string>& metadata, const std::string& where);

/// Tensors dealt to files, in order.
struct SafetensorsShards {
  struct Shard {
    std::string name;
    std::vector<SafetensorsPlan> plan;
  };
  std::vector<Shard> files;
  std::string index;  // for model.safetensors.index.json; empty where there is one file
};
/// model.safetensors if the tensors fit into max_shard_bytes, else model-00001-of-0000N.safetensors.
SafetensorsShards safetensors_shards(const std::vector<SafetensorsPlan>& plan, std::int64_t max_shard_bytes);

}  // namespace limbeck::data
