// Starting a student with fewer neurons, heads and channels than its teacher.
//
//     Narrower narrow(teacher_reader, config, {.neurons = {{0, 2, 5}} /*a layer*/, .channels = {0, 1, 3}});
//     Transformer student(narrow.model_config(), options);
//     student.load(narrow);
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "core/nn/model_config.h"
#include "core/state_dict.h"

namespace limbeck::nn {

/// Ascending indices.
struct KeptParts {
  std::vector<std::vector<std::int64_t>> neurons = {};   // of dense feed-forwards, by layer; empty: all of all
  std::vector<std::vector<std::int64_t>> kv_heads = {};  // by layer, each with the query heads that read it
  std::vector<std::int64_t> channels = {};               // of the residual stream
};

/// The architecture of so many of each (0: all), without layers that predict. Throws a UsageError that names the field
/// where the model, `where`, has fewer, or what is cut out would not be exact where it is zero: channels of norms with
/// a mean, attention of latents.
ModelConfig narrower_config(const ModelConfig& config, std::int64_t mlp_width, std::int64_t num_kv_heads,
                            std::int64_t width, const std::string& where);

/// The source without the others. Norms are over fewer channels, so their weights are times the root of how many of
/// them are left, and eps over that share: with channels, heads and neurons that were zero the start is exact. (With
/// norms of all heads together but for their eps, which is the others'.)
class Narrower final : public core::StateReader {
 public:
  Narrower(const core::StateReader& source, const ModelConfig& config, KeptParts kept);
  std::string source() const override { return source_.source(); }
  const std::map<std::string, core::StateInfo>& tensors() const override { return tensors_; }
  const ModelConfig& model_config() const { return narrower_; }

 private:
  /// What a tensor keeps: of each dimension all, or these in units of so many.
  struct Dimension {
    const std::vector<std::int64_t>* kept = nullptr;
    std::int64_t unit = 1;
  };
  struct Selection {
    std::vector<Dimension> dimensions;
    double scale = 1;  // of the values and `offset`, which is taken off again
    double offset = 0;
  };
  Selection selection_of(const std::string& name, const core::StateInfo& info) const;
  void fill(const std::string& name, const core::StateInfo& info, core::StateEntry& entry) const override;

  const core::StateReader& source_;
  ModelConfig config_, narrower_;
  KeptParts kept_;
  std::map<std::string, core::StateInfo> tensors_;
};

}  // namespace limbeck::nn
