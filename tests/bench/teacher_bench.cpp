// A teacher's forward pass to the probabilities of the whole vocabulary, as online distillation needs them: hidden
// states, then logits and softmax a chunk of tokens at a time.
//
//     build/release/bin/bench_teacher MODEL THREADS float32|bf16 RUNS [BATCH LENGTH]
//
// It prints one line of JSON: tokens_per_s, the median of the runs after one that is not timed; peak_share, FLOPs of
// the products and of causal attention over what this machine's threads could do, measured before.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/nn/batch.h"
#include "core/nn/transformer.h"
#include "core/ops/head_loss.h"
#include "core/ops/softmax.h"
#include "launch/run/machine_peak.h"
#include "launch/run/model_source.h"

namespace {

using namespace limbeck;

struct Options {
  std::string model;
  int threads = 2;
  bool is_bf16 = false;
  std::int64_t batch = 8, length = 512, runs = 3;
};

/// Tokens spread over the vocabulary.
nn::Batch batch_of(const core::MemoryPtr& memory, const Options& options, std::int64_t vocabulary) {
  std::vector<std::int32_t> tokens;
  for (std::int64_t i = 0; i < options.batch * options.length; ++i)
    tokens.push_back(static_cast<std::int32_t>(i * 7919 % vocabulary));
  std::vector<nn::TextPart> parts;
  for (std::int64_t n = 0; n < options.batch; ++n)
    parts.push_back({.tokens = std::span(tokens).subspan(static_cast<std::size_t>(n * options.length),
                                                         static_cast<std::size_t>(options.length))});
  return nn::sequences_of(memory, parts);
}

double flop_of(nn::Transformer& model, const Options& options) {
  double weights = 0;  // of matrices that a token is multiplied by
  for (const core::Parameter* p : model.parameters())
    if (p->global_shape.rank() > 1) weights += static_cast<double>(p->value.numel());
  const nn::ModelConfig& config = model.config();
  if (!config.tied_head) weights -= static_cast<double>(config.vocabulary * config.width);  // the embedding
  const double tokens = static_cast<double>(options.batch * options.length);
  const double pairs = tokens * static_cast<double>(options.length + 1) / 2;
  const double attention = 4 * pairs * static_cast<double>(config.num_layers * config.num_heads * config.head_width);
  return 2 * weights * tokens + attention;
}

void run(const Options& options) {
  const core::DType compute = options.is_bf16 ? core::DType::BF16 : core::DType::F32;
  const double peak = launch::measure_peak_flops(options.threads, compute);
  const auto memory = core::Memory::cpu(options.threads);
  const launch::ModelSource source = launch::open_model(options.model);
  nn::Transformer model(source.config,
                        {.memory = memory, .compute = compute, .residual = core::DType::F32, .frozen = true});
  model.load(*source.reader);
  const nn::Batch batch = batch_of(memory, options, source.config.vocabulary);

  constexpr std::int64_t chunk = 256;  // as head_loss takes on a CPU
  std::vector<double> times;
  for (std::int64_t n = 0; n <= options.runs; ++n) {
    const auto start = std::chrono::steady_clock::now();
    core::Tape off(core::Tape::Mode::Off);
    core::OnlineTeacher teacher(model.forward(off, model.pass(batch)).hidden.value, model.head().value);
    for (std::int64_t first = 0; first < batch.num_tokens(); first += chunk)
      core::softmax(off, core::constant(teacher.logits(first, std::min(chunk, batch.num_tokens() - first))));
    times.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  times.erase(times.begin());
  std::ranges::sort(times);
  const double time = (times[(times.size() - 1) / 2] + times[times.size() / 2]) / 2;
  const nlohmann::json result = {{"tokens_per_s", static_cast<double>(batch.num_tokens()) / time},
                                 {"peak_share", flop_of(model, options) / time / peak},
                                 {"peak_bytes", launch::peak_resident_bytes()}};
  std::printf("%s\n", result.dump().c_str());
}

}  // namespace

int main(int argc, char** argv) {
  const std::string compute = argc > 3 ? argv[3] : "";
  if ((argc != 5 && argc != 7) || (compute != "float32" && compute != "bf16")) {
    std::fprintf(stderr, "usage: bench_teacher MODEL THREADS float32|bf16 RUNS [BATCH LENGTH]\n");
    return 2;
  }
  try {
    Options options{
        .model = argv[1], .threads = std::stoi(argv[2]), .is_bf16 = compute == "bf16", .runs = std::stoi(argv[4])};
    if (argc == 7) options.batch = std::stoi(argv[5]), options.length = std::stoi(argv[6]);
    limbeck::core::check(options.threads > 0 && options.runs > 0 && options.batch > 0 && options.length > 0,
                         "numbers are 1 or more");
    run(options);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bench_teacher: error: %s\n", error.what());
    return 1;
  }
}
