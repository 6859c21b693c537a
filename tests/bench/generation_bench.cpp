// Texts that a model says together, as on-policy steps do, beside the same texts said one by one by the same code.
//
//     build/release/bin/bench_generation MODEL THREADS float32|bf16 ROUNDS [PROMPT NEW COUNT...]   # [32 96 4 8 16 32]
//
// In each round every COUNT of texts is said together, and the largest one by one, by turns: the time of the first
// COUNT of those is what it is compared with. A text is a prompt of PROMPT tokens and NEW more, drawn at temperature
// 0.9. It prints a line of JSON a COUNT: seconds, tokens_per_s (prompts' passes included) and ratio, medians over the
// rounds of what each round had, and the same ratio of the processor's seconds, which a busy machine disturbs less; and
// of a pass the bytes of weights that a text alone reads, and FLOPs a text.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/nn/generation.h"
#include "core/random.h"
#include "launch/run/model_source.h"

namespace {

using namespace limbeck;

struct Options {
  std::string model;
  int threads = 2;
  bool is_bf16 = false;
  std::int64_t rounds = 5, prompt = 32, added = 96;
  std::vector<std::int64_t> counts = {4, 8, 16, 32};
};

using Prompts = std::vector<std::vector<std::int32_t>>;

/// Tokens spread over the vocabulary, others in each round.
Prompts prompts_of(const Options& options, std::int64_t vocabulary, std::int64_t round) {
  const core::RandomStream random(1, static_cast<std::uint64_t>(round), "prompts");
  std::uint64_t next = 0;
  Prompts prompts(static_cast<std::size_t>(*std::ranges::max_element(options.counts)));
  for (auto& prompt : prompts)
    for (std::int64_t i = 0; i < options.prompt; ++i)
      prompt.push_back(static_cast<std::int32_t>(random.below(next++, static_cast<std::uint64_t>(vocabulary))));
  return prompts;
}

/// By the clock, and of the processor.
struct Seconds {
  double clock = 0, processor = 0;
};

double median(std::vector<double> of) {
  std::ranges::sort(of);
  return (of[(of.size() - 1) / 2] + of[of.size() / 2]) / 2;
}

/// Values of matrices that a token's pass reads: of experts those that it chooses.
double values_read(nn::Transformer& model) {
  const nn::ModelConfig& config = model.config();
  double values = 0;
  for (const core::Parameter* p : model.parameters()) {
    if (p->global_shape.rank() < 2 || (p->name == "embed.weight" && !config.tied_head)) continue;
    const double all = static_cast<double>(p->value.numel());
    values += p->name.find(".experts.") == std::string::npos ? all
                                                             : all * static_cast<double>(config.moe.experts_per_token) /
                                                                   static_cast<double>(config.moe.num_experts);
  }
  return values;
}

void run(const Options& options) {
  const auto memory = core::Memory::cpu(options.threads);
  const launch::ModelSource source = launch::open_model(options.model);
  nn::Transformer model(
      source.config,
      {.memory = memory, .compute = options.is_bf16 ? core::DType::BF16 : core::DType::F32, .frozen = true});
  model.load(*source.reader);
  const auto seconds_of = [&](std::span<const std::vector<std::int32_t>> prompts, std::int64_t at_once) {
    const auto start = std::chrono::steady_clock::now();
    const std::clock_t used = std::clock();
    nn::generate_texts(model, prompts,
                       {.max_tokens = options.added, .sampling = {.temperature = 0.9, .seed = 1}, .at_once = at_once});
    return Seconds{std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(),
                   static_cast<double>(std::clock() - used) / CLOCKS_PER_SEC};
  };
  std::map<std::int64_t, std::vector<double>> together, alone, ratios, of_processor;
  for (std::int64_t round = -1; round < options.rounds; ++round) {  // the first is not counted
    const Prompts prompts = prompts_of(options, source.config.vocabulary, round + 1);
    std::vector<Seconds> ends;  // of texts that are said one by one
    const auto say_alone = [&](std::int64_t to) {
      while (std::ssize(ends) < to) {
        const Seconds before = ends.empty() ? Seconds() : ends.back(),
                      own = seconds_of(std::span(prompts).subspan(ends.size(), 1), 1);
        ends.push_back({before.clock + own.clock, before.processor + own.processor});
      }
    };
    if (round < 0) {
      say_alone(1);
      seconds_of(prompts, std::ssize(prompts));
      continue;
    }
    for (const std::int64_t count : options.counts) {
      const auto at = static_cast<std::size_t>(count);
      say_alone(count);
      const Seconds all = seconds_of(std::span(prompts).first(at), count);
      together[count].push_back(all.clock);
      alone[count].push_back(ends[at - 1].clock);
      ratios[count].push_back(ends[at - 1].clock / all.clock);
      of_processor[count].push_back(ends[at - 1].processor / all.processor);
    }
  }
  const double values = values_read(model);
  for (const std::int64_t count : options.counts) {
    const double tokens = static_cast<double>(count * options.added);
    const nlohmann::ordered_json line = {{"texts", count},
                                         {"seconds", median(together[count])},
                                         {"seconds_one_by_one", median(alone[count])},
                                         {"tokens_per_s", tokens / median(together[count])},
                                         {"tokens_per_s_one_by_one", tokens / median(alone[count])},
                                         {"ratio", median(ratios[count])},
                                         {"least_ratio", std::ranges::min(ratios[count])},
                                         {"ratio_of_processor", median(of_processor[count])},
                                         {"weight_bytes_alone", values * (options.is_bf16 ? 2 : 4)},
                                         {"flops_a_text", 2 * values}};
    std::printf("%s\n", line.dump().c_str());
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::string compute = argc > 3 ? argv[3] : "";
  if (argc < 5 || argc == 6 || (compute != "float32" && compute != "bf16")) {
    std::fprintf(stderr, "usage: bench_generation MODEL THREADS float32|bf16 ROUNDS [PROMPT NEW COUNT...]\n");
    return 2;
  }
  try {
    Options options{
        .model = argv[1], .threads = std::stoi(argv[2]), .is_bf16 = compute == "bf16", .rounds = std::stoi(argv[4])};
    if (argc > 6) options.prompt = std::stoi(argv[5]), options.added = std::stoi(argv[6]);
    if (argc > 7) options.counts.clear();
    for (int i = 7; i < argc; ++i) options.counts.push_back(std::stoi(argv[i]));
    std::ranges::sort(options.counts);
    limbeck::core::check(options.threads > 0 && options.rounds > 0 && options.prompt > 0 && options.added > 0 &&
                             options.counts.front() > 0,
                         "numbers are 1 or more");
    run(options);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bench_generation: error: %s\n", error.what());
    return 1;
  }
}
