// A run of the program beside the same run written out: a step of the one, and what the other has to have recorded of
// it.
//
//     Step step = step_of(student, nullptr, loader.fetch(0, 5), {}, {.balance = 0.01});
//     expect_step(folder.metrics("run")[0], step, /*rate=*/1e-3, /*tokens=*/120, /*assignments=*/240,
//     /*first_layer=*/0);
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/nn/generation.h"
#include "data/text/loader.h"
#include "tests/support/run_limbeck.h"
#include "tests/support/written_out.h"

namespace limbeck::testing {

/// Of numbers, relative to the larger of theirs and 0.01.
inline constexpr double run_tolerance = 1e-9;
/// Tokens of the byte tokenizer: bytes, and an end of text.
inline constexpr std::int64_t num_byte_tokens = 257;

inline constexpr const char* in_float64 =
    "precision { compute: FLOAT64 master: FLOAT64 gradient: FLOAT64 reduction: FLOAT64 frozen_storage: FLOAT64 }\n";

/// A teacher with experts, of the folder's text; without precision.
inline constexpr const char* teacher_of_experts_job = R"(
model {
  vocabulary: 264 width: 16 num_layers: 4 num_heads: 2 max_positions: 64
  moe { num_experts: 4 experts_per_token: 2 expert_width: 12 }
}
data { text: "text" tokenizer: "bytes" sequence_length: 24 held_out_fraction: 0.35 }
optimizer { rate: 2e-2 } schedule { warmup_steps: 0 } batch { sequences_per_step: 4 } train { steps: 4 threads: 1 }
)";

/// The documents text/FIRST.txt to text/LAST.txt of the folder, a byte a token.
std::shared_ptr<const data::TokenFile> byte_token_file(const RunFolder& folder, int first, int last);

/// A step's loss and gradients, before the optimizer.
struct Step {
  double loss = 0, balance = 0, z = 0, hidden = 0, norm = 0;
  double balance_norm = 0, z_norm = 0;  // of the gradients of these terms with respect to the routers' logits
  Figures figures;
  std::vector<std::vector<double>> load;
  std::vector<double> untaken;
  std::map<std::string, std::vector<double>> gradients;  // without the frozen weight's
};
Step step_of(WrittenOut& student, const WrittenOut* teacher, const data::TokenBatch& samples,
             const WrittenOutObjective& objective, const nn::RouterTraining& router, const std::string& frozen = "",
             const WrittenOutMatch& match = {});
/// The same of any loss of the logits [T,V] of student and teacher, of which it writes the student's gradient.
using LossOfLogits = std::function<double(const core::Tensor& student, const core::Tensor* teacher, core::Tensor&)>;
Step step_by(WrittenOut& student, const WrittenOut* teacher, const data::TokenBatch& samples, const LossOfLogits& loss,
             const nn::RouterTraining& router, const std::string& frozen = "", const WrittenOutMatch& match = {});

Figures figures_on(const WrittenOut& model, const WrittenOut* teacher, const data::TokenBatch& samples);

/// What the model says behind a prompt of bytes, until an end of text.
std::string continuation(const WrittenOut& model, const std::string& prompt, std::int64_t max_tokens,
                         nn::SamplingOptions sampling);
/// As JSON and the terminal have it: U+FFFD for what is no UTF-8.
std::string in_json(const std::string& bytes);

void expect_near(const nlohmann::json& actual, double expected, const std::string& what);

/// A step's line of metrics.jsonl; `first_layer` is the first with experts, the others follow. `assignments` are those
/// of a layer; where experts choose tokens, those that they take.
void expect_step(const nlohmann::json& line, const Step& step, double rate, std::int64_t tokens,
                 std::int64_t assignments, std::int64_t first_layer, bool has_teacher = false);
/// The fields of an evaluation in such a line.
void expect_evaluation(const nlohmann::json& line, const Figures& figures, bool has_teacher);
/// An evaluation of start.json or end.json.
void expect_figures(const nlohmann::json& evaluation, const Figures& figures);

/// Each group of numbers to ten times the tolerance of its greatest, or of a hundredth of the greatest of all.
void expect_same_values(const std::map<std::string, std::vector<double>>& actual,
                        const std::map<std::string, std::vector<double>>& expected);
std::map<std::string, std::vector<double>> values_of(const Weights& weights);
/// The weights of a model on the disk.
std::map<std::string, std::vector<double>> saved_values(const std::filesystem::path& model);

/// Of a run with --verbose: tokens a second are as the line of the step's time says, the share of the peak is as the
/// peak says for so many operations a token.
void expect_speed(const Outcome& verbose, const std::vector<nlohmann::json>& lines, double operations,
                  std::int64_t tokens);
/// metrics.jsonl with the fields that measure.
std::vector<nlohmann::json> whole_lines(const RunFolder& folder, const std::string& run);

}  // namespace limbeck::testing
