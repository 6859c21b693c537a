// A GGUF file of one of the families (families/family.h) as named tensors: what a teacher is read from. Names and
// layout are Limbeck's; of the llama architecture q and k rows are put back into the half-split RoPE order that the
// file's converter permuted.
//
//     GgufModel teacher(std::make_shared<GgufFile>("SmolLM2-135M-Instruct.Q4_1.gguf"));
//     nn::ModelConfig config = teacher.model_config();
//     core::StateEntry entry = core::StateEntry::whole(Tensor::empty(memory, DType::F32, {576, 576}));
//     teacher.read("layers.0.attention.q.weight", entry);
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/nn/model_config.h"
#include "core/state_dict.h"
#include "data/models/gguf.h"
#include "data/models/stored_rows.h"

namespace limbeck::data {

struct GgufName;

class GgufModel : public core::StateReader {
 public:
  /// Throws, naming the file and the key or tensor, unless the architecture is a family's, its numbers are such as
  /// Limbeck computes, and the tensors are exactly those of its metadata (dense or with experts in every layer; no
  /// output.weight: a tied head).
  explicit GgufModel(std::shared_ptr<const GgufFile> file);

  const GgufFile& file() const { return *file_; }
  const nn::ModelConfig& model_config() const { return config_; }

  /// What was left out.
  const std::vector<std::string>& notices() const { return notices_; }

  /// Bytes of the file that tensors were made of so far, on all threads.
  std::int64_t bytes_read() const { return bytes_read_; }

  /// H of a matrix [H*N,M] whose heads the file has transposed, [H,M,N]: blocks of values lie along N there. Else 0.
  std::int64_t transposed_heads(const std::string& name) const;

  std::string source() const override { return file_->path(); }
  const std::map<std::string, core::StateInfo>& tensors() const override { return tensors_; }

 private:
  /// Dequantises only the box that the entry asks for. May be called from several threads at once.
  void fill(const std::string& name, const core::StateInfo& info, core::StateEntry& entry) const override;

  /// Blocks, bfloat16 or float32 of the mapped file; copied where rows have another order here than there, or experts
  /// are tensors of their own.
  std::optional<core::Tensor> lend_box(const std::string& name, const core::StateInfo& info,
                                       const core::StateEntry& entry, const core::MemoryPtr& memory) const override;

  struct Origin {
    std::vector<const GgufTensor*> tensors;  // one; or an expert each of a stack
    bool is_permuted = false;                // rows of q and k
    float offset = 0;                        // that values here are less by
    StoredRows rows = {};                    // of the tensor
    bool is_decay = false;                   // GgufName's
    std::int64_t transposed_heads = 0;       // of as many matrices, each of which is transposed there
  };
  Origin find(const GgufName& name) const;
  /// The blocks that hold `count` elements of a tensor from `first` on: where they begin, and their bytes.
  std::pair<const std::byte*, std::int64_t> blocks_of(const GgufTensor& tensor, std::int64_t first,
                                                      std::int64_t count) const;
  /// What lies one behind the other: a row of a box, or, of a bias in another order, a value.
  static std::int64_t columns_of(const Origin& origin, const core::Shape& box);
  /// f(i, tensor, first) for each row of the entry's box: it is the elements from `first` on of that tensor.
  template <class F>
  void for_each_row(const Origin& origin, const core::Shape& global, const core::StateEntry& entry, F&& f) const;

  void fill_transposed(const Origin& origin, const core::Shape& global, core::StateEntry& entry) const;

  std::shared_ptr<const GgufFile> file_;
  nn::ModelConfig config_;
  std::map<std::string, core::StateInfo> tensors_;
  std::map<std::string, Origin> origins_;
  std::vector<std::string> notices_;
  mutable std::atomic<std::int64_t> bytes_read_ = 0;
};

}  // namespace limbeck::data
