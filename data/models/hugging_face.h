// Hugging Face model directories, in and out: config.json and safetensors with the names of a family.
//
//     HuggingFaceModel model("SmolLM2-135M");
//     nn::ModelConfig config = model.model_config();
//     model.read("layers.3.attention.q.weight", entry);                          // Limbeck's names
//     export_hugging_face(checkpoint, config, "out", {.dtype = DType::BF16, .files = {{"tokenizer.json", text}}});
//
// docs/parameter_names.md has the table of names. Expert matrices, one tensor each there, are stacked here.
#pragma once

#include <atomic>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/nn/model_config.h"
#include "core/state_dict.h"
#include "data/models/export_tensors.h"
#include "data/models/model_tensor.h"
#include "data/models/safetensors.h"
#include "data/models/stored_rows.h"

namespace limbeck::data {

struct Family;

class HuggingFaceModel : public core::StateReader {
 public:
  /// A model of one of the families (families/family.h), in one file or sharded. Throws, naming file and field or
  /// tensor, for what Limbeck would not compute as meant, for missing tensors, other shapes, and tensors that have no
  /// place. A folder that contradicts
  /// itself is read as transformers does (model.safetensors before an index; a head that differs from the embedding it
  /// is said to be tied to is a head of its own), which notices() says.
  explicit HuggingFaceModel(std::filesystem::path folder);

  const nn::ModelConfig& model_config() const { return config_; }
  /// What people should know of the folder, a line each.
  const std::vector<std::string>& notices() const { return notices_; }
  /// Bytes of the files that tensors were made of so far, on all threads.
  std::int64_t bytes_read() const { return bytes_read_; }
  std::string source() const override { return folder_.string(); }
  const std::map<std::string, core::StateInfo>& tensors() const override { return tensors_; }

 private:
  void fill(const std::string& name, const core::StateInfo& info, core::StateEntry& entry) const override;
  /// Blocks, copied; values that lie in a file in this order as they are.
  std::optional<core::Tensor> lend_box(const std::string& name, const core::StateInfo& info,
                                       const core::StateEntry& entry, const core::MemoryPtr& memory) const override;
  struct Origin {
    std::vector<std::shared_ptr<const ModelTensor>> tensors;  // one, or one a matrix of a stack
    bool is_stack = false;
    StoredRows rows = {};
    std::int64_t first = 0;
    std::vector<std::int64_t> strides = {};  // of each: HuggingFaceName
  };
  std::optional<core::Tensor> lend_mapped(const Origin& origin, const core::StateInfo& info,
                                          const core::StateEntry& entry, const core::MemoryPtr& memory) const;
  /// f(tensor, first, stride, count) for the entry's box, in its order.
  template <class F>
  void for_each_run(const Origin& origin, const core::Shape& global, const core::StateEntry& entry, F&& f) const;
  SafetensorsEntries open_files();
  void open_shards(const std::filesystem::path& index, SafetensorsEntries& entries);
  void open_file(const std::string& name, SafetensorsEntries& entries);
  void resolve_root();
  void resolve_head();
  void resolve_predict();
  void map_tensors();

  std::filesystem::path folder_;
  const Family* family_ = nullptr;
  std::string root_;  // of the tensors' names
  nn::ModelConfig config_;
  std::vector<std::string> notices_;
  std::vector<std::shared_ptr<const SafetensorsFile>> files_;
  ModelTensors stored_;                    // by Hugging Face name
  std::map<std::string, Origin> origins_;  // by ours
  std::map<std::string, core::StateInfo> tensors_;
  mutable std::atomic<std::int64_t> bytes_read_ = 0;
};

struct HuggingFaceExport {
  core::DType dtype = core::DType::BF16;          // or float32; MXFP4: of gpt-oss' experts, beside bfloat16
  std::map<std::string, std::string> files = {};  // by name, beside the model: of its tokenizer
  std::optional<std::int64_t> bos_token = {};     // for config.json
  std::vector<std::int64_t> eos_tokens = {};      // each ends an answer
  /// For config.json of a model with a reward head, which reads the last token that is none of these.
  std::optional<std::int64_t> padding_token = {};
  std::int64_t max_shard_bytes = 5'000'000'000;          // of tensors
  bool replace = false;                                  // a model that an earlier export wrote there
  std::int64_t values_at_once = std::int64_t{1} << 18U;  // of a tensor, read on a thread
  ExportWork work = {};
};

/// Writes `folder` (made if need be) so that `transformers` loads it, as a model of the first family that holds it,
/// without layers that predict further tokens where the family has none (ExportWork::notice says so).
/// Throws where none does; and a UsageError where the folder cannot be made, holds (part of) a model, whose files
/// would be mixed with these, or a file that would be written over. With `replace` a model there goes, where an earlier
/// export wrote it (its weights say so, and name what was written with them), and no file else, once the new one is
/// whole. Until then it lies in `folder`/.unfinished, where an interrupted export goes on (ExportWork). A few rows of
/// one tensor are in memory at a time.
void export_hugging_face(const core::StateReader& model, const nn::ModelConfig& config,
                         const std::filesystem::path& folder, const HuggingFaceExport& options);

}  // namespace limbeck::data
