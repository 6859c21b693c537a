// What was written of a model, held against the model that it was made of: every value is what the format makes of the
// model's, and both give the same logits, as far as that. Of each one layer is in memory at a time, and of a layer's
// experts a few.
//
//     const ConversionCheck check = check_conversion(open_model("model"), open_model("out.gguf"), {.threads = 2});
//     check.difference                                        // 0.003: of logits, of the largest
#pragma once

#include <cstdint>
#include <functional>

#include "launch/run/model_source.h"

namespace limbeck::launch {

struct ConversionCheck {
  std::int64_t num_tokens = 0;  // whose logits were compared, over the whole vocabulary
  double difference = 0;        // the greatest, over the largest magnitude of a logit
  bool is_exact = true;         // no value was rounded
};

struct ConversionCheckOptions {
  int threads = 1;
  std::int64_t num_tokens = 16;
  std::int64_t bytes_at_once = std::int64_t{1} << 28U;  // of experts, and of rows of the vocabulary; at least one
  std::function<void(std::int64_t done, std::int64_t all)> progress = {};  // steps of about a layer each
};

/// Throws, naming what was written and the tensor, where a value is not the model's, neither as it is there nor rounded
/// as the dtype of the file rounds it (gguf_blocks.h), and where the logits are further apart than the rounding of the
/// dtypes explains: the two models' numbers differ then, or what they are made of. Of layers that predict further
/// tokens the values alone are compared, where both have them.
ConversionCheck check_conversion(const ModelSource& source, const ModelSource& written,
                                 const ConversionCheckOptions& options);

}  // namespace limbeck::launch
