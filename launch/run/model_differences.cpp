#include "launch/run/model_differences.h"

#include <array>
#include <cmath>
#include <numbers>

#include "core/error.h"

namespace limbeck::launch {

namespace {

/// Of a document; behind these a column a bin of its calibration.
enum Column : std::size_t { Tokens, Bytes, Ce, Kl, Agreement, SumMin, Documents, DocumentCe, num_columns };

using Sums = std::span<const double>;

void add_document(std::vector<double>& rows, const FigureSums& sums, const Evaluation& document) {
  rows.insert(rows.end(), {sums.tokens, static_cast<double>(document.bytes.value_or(0)), sums.ce, sums.kl,
                           sums.agreement, sums.sum_min, 1, document.cross_entropy});
  const auto gaps = sums.calibration.gaps();
  rows.insert(rows.end(), gaps.begin(), gaps.end());
}

double calibration_error(Sums sums) {
  double error = 0;
  for (const double gap : sums.subspan(num_columns)) error += std::abs(gap);
  return error / sums[Tokens];
}

std::vector<SampleFigure> text_figures(bool have_same_tokens, bool have_bytes, bool has_teacher) {
  std::vector<SampleFigure> figures;
  const auto a_token = [](Column column) { return [column](Sums sums) { return sums[column] / sums[Tokens]; }; };
  if (have_same_tokens) {
    figures = {{"ce", a_token(Ce)},
               {"perplexity", [](Sums sums) { return std::exp(sums[Ce] / sums[Tokens]); }},
               {"document_perplexity", [](Sums sums) { return std::exp(sums[DocumentCe] / sums[Documents]); }},
               {"ece", calibration_error}};
    if (has_teacher)
      figures.insert(figures.end(),
                     {{"kl", a_token(Kl)}, {"top1_agreement", a_token(Agreement)}, {"sum_min", a_token(SumMin)}});
  }
  if (have_bytes)
    figures.push_back({"bits_per_byte", [](Sums sums) { return sums[Ce] / (sums[Bytes] * std::numbers::ln2); }});
  return figures;
}

}  // namespace

std::vector<FigureDifference> text_differences(Rank& rank, const TextFigures& model, const TextFigures& against,
                                               bool have_same_tokens) {
  core::check(model.documents.size() == against.documents.size(), "{} and {} documents, expected the same",
              model.documents.size(), against.documents.size());
  PairedSample sample{.columns = num_columns + Calibration::num_bins};
  bool have_bytes = true;
  for (std::size_t d = 0; d < model.documents.size(); ++d) {
    if (model.documents[d].tokens == 0 || against.documents[d].tokens == 0) continue;
    add_document(sample.model, model.sums[d], model.documents[d]);
    add_document(sample.against, against.sums[d], against.documents[d]);
    have_bytes = have_bytes && model.documents[d].bytes.value_or(0) > 0;
  }
  return paired_bootstrap(rank, sample, text_figures(have_same_tokens, have_bytes, model.all.has_teacher()));
}

std::vector<FigureDifference> task_differences(Rank& rank, const TaskResult& model, const TaskResult& against) {
  PairedSample sample{.columns = model.figures.size()};
  std::vector<SampleFigure> figures;
  const std::size_t questions = model.answers.size();
  for (std::size_t q = 0; q < questions; ++q)
    for (std::size_t f = 0; f < sample.columns; ++f) {
      sample.model.push_back(model.figures[f].values[q]);
      sample.against.push_back(against.figures[f].values[q]);
    }
  for (std::size_t f = 0; f < sample.columns; ++f)
    figures.push_back({model.figures[f].name, [=, is_perplexity = model.figures[f].is_perplexity](Sums sums) {
                         return task_figure(sums[f], static_cast<double>(questions), is_perplexity);
                       }});
  return paired_bootstrap(rank, sample, figures);
}

}  // namespace limbeck::launch
