// A layer that predicts a further token (DeepSeek-AI 2024, "DeepSeek-V3", section 2.2): of depth k, from 0, it reads
// what the depth before gave for token i, of depth 0 the model itself, beside the embedded token i + k + 1, and what it
// gives is read by the model's head, for token i + k + 2.
//
//     Var hidden = out.stream;                                                  // of Transformer::forward
//     for (std::int64_t k = 0; k < num_predict_layers; ++k) {
//       auto further = model.predict(tape, pass, k, hidden, batch.ahead[k].tokens);
//       Var loss = core::head_loss(tape, further.hidden, model.head(), batch.ahead[k].targets, ...);
//       hidden = further.stream;
//     }
//
// The embedded token comes first, as vLLM (models/deepseek_mtp.py), SGLang (models/deepseek_nextn.py) and Megatron
// (transformer/multi_token_prediction.py) have the weights of DeepSeek-V3. What a depth reads stands behind the last
// norm of the model, as in SGLang, or of the depth before, as in SGLang and Megatron; vLLM leaves the norm between
// depths out, of which DeepSeek-V3 and GLM-4.5, with one, have none.
#pragma once

#include "core/nn/layer.h"

namespace limbeck::nn {

struct Predictor {
  Norm embed_norm, hidden_norm;
  Parameter* project = nullptr;  // [C,2C]: columns of the embedded token, and behind them of the hidden state
  Layer layer;
  Norm norm;  // of what the head reads

  /// What the layer reads, of embedded tokens and hidden states [T,C], or this rank's share of them.
  Var entry(Tape& tape, const Var& embedded, const Var& hidden) const;
};

}  // namespace limbeck::nn
