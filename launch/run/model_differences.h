// Two models on the same text or the same questions, figure by figure.
//
//     for (const FigureDifference& d : text_differences(rank, figures, documents, others, others_documents, true))
//       d.name, d.difference, d.p_value;
#pragma once

#include <vector>

#include "data/text/documents.h"
#include "launch/run/paired_bootstrap.h"
#include "launch/run/task_evaluation.h"
#include "launch/run/text_evaluation.h"

namespace limbeck::launch {

/// Collective, by document: "ce", "perplexity", "document_perplexity", "ece", with a teacher "kl", "top1_agreement" and
/// "sum_min", where all have bytes "bits_per_byte". Where the models' tokens are not the same only that last, for a
/// token is another piece of text then. Documents of which nothing is predicted are left out.
std::vector<FigureDifference> text_differences(Rank& rank, const TextFigures& model, const TextFigures& against,
                                               bool have_same_tokens);

/// Collective, by question: of each of the task's figures.
std::vector<FigureDifference> task_differences(Rank& rank, const TaskResult& model, const TaskResult& against);

}  // namespace limbeck::launch
