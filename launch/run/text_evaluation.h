// How a model does on documents, all of each: a long one is read in windows that overlap, so that no token is predicted
// from little, and every token is predicted once. Documents never see each other.
//
//     TextEvaluation text(rank, read_documents(paths, *tokenizer, {}), {.length = 1024, .stride = 512}, vocabulary);
//     TextFigures figures = text.measure(model, /*teacher=*/nullptr);
//     figures.all.bits_per_byte(); figures.documents[3].perplexity();
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/nn/transformer.h"
#include "data/text/documents.h"
#include "launch/console/log.h"
#include "launch/run/cached_teacher.h"
#include "launch/run/evaluation.h"
#include "launch/run/expert_use.h"
#include "launch/run/rank.h"

namespace limbeck::launch {

struct WindowOptions {
  std::int64_t length = 0;  // tokens that the model reads at once
  std::int64_t stride = 0;  // from the start of a window to that of the next: 1 to `length`
};

/// The tokens [first, first + count) of a document, which the model reads; of what it says comes next, the last
/// `num_scored` count.
struct Window {
  std::size_t document = 0;
  std::int64_t first = 0;
  std::int64_t count = 0;
  std::int64_t num_scored = 0;
};

/// The windows of documents of so many tokens, one document after the other. Window k of a document begins at token
/// k * stride. Each token but a document's first, which nothing precedes, is scored once, by the first window that
/// comes to it: it sees at least length - stride + 1 tokens before it, or all there are.
std::vector<Window> windows_of(std::span<const std::int64_t> lengths, const WindowOptions& options);

struct TextFigures {
  Evaluation all;
  std::vector<Evaluation> documents;  // of no tokens where a document has one token alone
  std::vector<FigureSums> sums;       // of each document
  // Of the tokens from which others were predicted, where the experts were looked at:
  std::vector<LayerUse> experts;
  std::optional<ModelLoad> load = std::nullopt;
};

/// Warns where documents have ill-formed UTF-8; `what` names the text.
void say_repaired(const std::vector<data::Document>& documents, const std::string& what, const Log& log);

class TextEvaluation {
 public:
  /// The documents are the same on every rank. Throws, naming the document, for an id that is not below
  /// `valid_vocabulary`, from which on tokens are padding in every head; and where no document has two tokens.
  TextEvaluation(Rank& rank, std::vector<data::Document> documents, const WindowOptions& options,
                 std::int64_t valid_vocabulary);

  /// Collective; each rank takes its share of the windows. `teacher` (null: none) has the model's vocabulary. What a
  /// frozen copy gives does not depend on the number of ranks, bit by bit. `with_experts`: also which experts of a
  /// frozen copy the tokens take. `cached`: in the teacher's place, CachedTeacher::to_measure(documents()). Throws,
  /// naming the document, where the model's loss is not finite.
  TextFigures measure(const nn::Transformer& model, const nn::Transformer* teacher, bool with_experts = false,
                      CachedTeacher* cached = nullptr) const;

  const std::vector<data::Document>& documents() const { return documents_; }
  std::int64_t num_tokens() const;  // of all documents, that are predicted

 private:
  struct Job {  // windows that are read at once
    std::size_t first = 0;
    std::size_t count = 0;
  };
  bool is_scored(const Window& w, std::int64_t t) const;
  std::int64_t num_scored(const Window& w) const;
  /// Its pieces are the windows.
  data::TokenBatch text_of(const Job& job) const;
  nn::Batch batch_of(const data::TokenBatch& text) const;
  /// The tokens of a job, as its batch has them, that predict one which counts.
  std::vector<ExpertUse::Token> tokens_of(const Job& job) const;
  TextFigures summary(const TokenRows& tokens) const;

  Rank& rank_;
  std::vector<data::Document> documents_;
  std::vector<Window> windows_;
  std::vector<Job> jobs_;
  std::vector<std::int64_t> offsets_;  // of each document's first target among those of all; then how many there are
  std::int64_t valid_vocabulary_;
};

}  // namespace limbeck::launch
