// From samples of one tokenizer to what a teacher of another one reads of their text, and the spans that both have
// borders of (objective.bridge, docs/distillation.md).
//
//     TokenizerBridge bridge(tokenizer, teacher_tokenizer, std::move(teacher), log);
//     const BridgedBatch read = bridge.read(rank.memory(), samples);
//     const core::Tensor theirs = bridge.losses(rank, read.batch, bridge.hidden(read.batch));
//     Tensor weights = core::span_weights(said.each(), theirs, read.spans, ce_weight, totals);
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/nn/transformer.h"
#include "core/ops/paired_teacher.h"
#include "data/text/loader.h"
#include "data/tokenizers/tokenizer.h"
#include "launch/console/log.h"
#include "launch/run/mapped_layers.h"
#include "launch/run/rank.h"

namespace limbeck::launch {

struct BridgedBatch {
  nn::Batch batch;                 // of the teacher's tokens, with targets
  std::vector<std::int64_t> host;  // the spans, [n,kernels::num_span_places], with places in samples and batch
  core::Tensor spans;              // the same
};

class TokenizerBridge {
 public:
  /// `text`: of the samples. `own`: the teacher's. Throws a UsageError where the teacher has fewer rows than tokens.
  TokenizerBridge(std::shared_ptr<const data::Tokenizer> text, std::shared_ptr<const data::Tokenizer> own,
                  std::unique_ptr<nn::Transformer> teacher, Log log = nullptr);

  const nn::Transformer& teacher() const { return *teacher_; }

  /// The teacher reads each part of a document in a sequence for itself, as the student does: from where the document
  /// begins, behind the token that begins the teacher's texts, if there is one; a part with more tokens than the
  /// teacher has positions in several. Spans are left out that hold a token which is not predicted, a target that the
  /// text's mask leaves out, and the last of a part whose document goes on, which the teacher's tokenizer might cut
  /// otherwise. An end of text is a span of no bytes. A part whose text the teacher's tokenizer does not give back has
  /// no spans; a warning names the first one's document.
  BridgedBatch read(const core::MemoryPtr& memory, const data::TokenBatch& samples) const;

  /// Collective as the teacher's passes: its hidden states [T,C] of what it reads. `streamed`: its layers, where they
  /// come from the disk.
  core::Tensor hidden(const nn::Batch& batch, const MappedLayers* streamed = nullptr) const;
  /// Collective likewise: of those [T,kernels::num_loss_columns].
  core::Tensor losses(Rank& rank, const nn::Batch& batch, const core::Tensor& hidden) const;
  /// Of those what the teacher says where a span of `tokens` samples begins, beside a student of that vocabulary.
  core::PairedTeacher pairs(const BridgedBatch& read, const core::Tensor& hidden, std::int64_t tokens,
                            const core::PairedLogits::Vocabulary& student, core::Tensor totals) const;

 private:
  struct Part;
  struct Columns;
  void add(const Part& part, const data::TokenBatch& samples, Columns& columns) const;

  std::shared_ptr<const data::Tokenizer> text_, own_;
  std::unique_ptr<nn::Transformer> teacher_;
  Log log_;
  mutable bool has_warned_ = false;
};

}  // namespace limbeck::launch
