// The scan of states of a training step, its convolution and its gated norm, and a step of generation. The scan's rate
// is beside that of float32 multiply-adds in the same run; FLOP are those of its products (docs/gradients.md), of pairs
// of tokens those of which one sees the other.
//
//     build/release/bin/bench_state_scan [threads] [tokens]
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "kernels/causal_conv.h"
#include "kernels/denormals.h"
#include "kernels/gated_rms_norm.h"
#include "kernels/peak.h"
#include "kernels/state_scan.h"
#include "tests/bench/timing.h"

namespace {

using namespace limbeck;
using bench::seconds;
using kernels::scan_chunk;

constexpr std::int64_t heads = 24, width = 64, groups = 1, state_width = 128, taps = 4;  // of Mamba-2 130M
constexpr std::int64_t inner = heads * width, outer = groups * state_width, channels = inner + 2 * outer;

template <class T>
std::vector<T> filled(std::int64_t n, float scale = 1) {
  std::vector<T> values;
  for (std::int64_t i = 0; i < n; ++i)
    values.push_back(kernels::as<T>(scale * (static_cast<float>((i * 7919) % 1009) / 500.F - 1.F)));
  return values;
}
/// From a boundary of 64 bytes on.
template <class A>
struct Room {
  std::vector<A> values;
  explicit Room(std::int64_t count) : values(static_cast<std::size_t>(count) + 64) {}
  A* data() { return reinterpret_cast<A*>((reinterpret_cast<std::uintptr_t>(values.data()) + 63) / 64 * 64); }
};

template <class T>
void measure(const kernels::Cpu& cpu, const char* type, std::int64_t tokens, double peak) {
  using A = kernels::Acc<T>;
  const std::vector<std::int64_t> offsets = {0, tokens};
  const std::vector<std::int32_t> document(static_cast<std::size_t>(tokens));
  kernels::Sequences sequences{tokens, 1, offsets.data(), document.data()};
  kernels::ScanProblem problem{sequences, heads, width, groups, state_width, 0, 1e30};
  const auto x = filled<T>(tokens * inner), b = filled<T>(tokens * outer), c = filled<T>(tokens * outer), dy = x;
  const auto dt = filled<T>(tokens * heads);
  const auto dt_bias = filled<A>(heads), a_log = filled<A>(heads), skip = filled<A>(heads);
  std::vector<T> y(x.size()), dx(x.size()), ddt(dt.size()), db(b.size()), dc(c.size());
  std::vector<A> sums(3 * heads);
  Room<A> room(problem.gradient_room());
  const kernels::ScanInputs<T> in{x.data(), dt.data(), b.data(), c.data(), dt_bias.data(), a_log.data(), skip.data()};
  const kernels::ScanGradients<T> d{dx.data(), ddt.data(),   db.data(),       dc.data(),
                                    &sums[0],  &sums[heads], &sums[2 * heads]};
  const double forward =
      seconds([&] { kernels::state_scan<kernels::Cpu, T>(cpu, problem, in, room.data(), nullptr, y.data()); });
  const double backward =
      seconds([&] { kernels::state_scan_gradient<kernels::Cpu, T>(cpu, problem, in, dy.data(), room.data(), d); });
  const double seen = 0.5 * static_cast<double>(scan_chunk + 1), state = width * state_width;
  const double of_pairs = seen * (heads * width + groups * state_width), n = 2.0 * static_cast<double>(tokens);
  const double flop_forward = n * (of_pairs + 2 * heads * state);
  const double flop_backward = n * (2 * seen * heads * width + 3 * seen * groups * state_width + 5 * heads * state);
  for (const auto& [what, flop, time] :
       {std::tuple{"forward", flop_forward, forward}, {"backward", flop_backward, backward}})
    std::printf("%-8s scan %-8s %8.2f ms %8.1f GFLOP/s %5.1f %%\n", type, what, time * 1e3, flop / time / 1e9,
                100 * flop / time / 1e9 / peak);

  const auto wide = filled<T>(tokens * channels), dwide = wide;
  const auto weight = filled<A>(channels * taps), bias = filled<A>(channels);
  std::vector<T> convolved(wide.size());
  std::vector<A> dweight(weight.size()), dbias(bias.size()), r(static_cast<std::size_t>(tokens * groups));
  const auto report = [&](const char* what, double time, double bytes) {
    std::printf("%-8s %-21s %8.2f ms %8.1f GB/s\n", type, what, time * 1e3, bytes / time / 1e9);
  };
  const auto moved = static_cast<double>(sizeof(T));
  report("convolution", seconds([&] {
           kernels::causal_conv<kernels::Cpu, T>(cpu, sequences, wide.data(), weight.data(), bias.data(), nullptr,
                                                 convolved.data(), channels, taps);
         }),
         2 * moved * static_cast<double>(wide.size()));
  report("its gradients", seconds([&] {
           kernels::causal_conv_gradient<kernels::Cpu, T>(cpu, sequences, wide.data(), weight.data(), bias.data(),
                                                          dwide.data(), convolved.data(), dweight.data(), dbias.data(),
                                                          channels, taps);
         }),
         3 * moved * static_cast<double>(wide.size()));
  const auto scale = filled<A>(inner);
  report("gated norm", seconds([&] {
           kernels::gated_rms_norm(cpu, x.data(), dy.data(), scale.data(), y.data(), r.data(), tokens, groups,
                                   inner / groups, 1e-5);
         }),
         3 * moved * static_cast<double>(x.size()));

  // Eight texts, a token each.
  constexpr std::int64_t texts = 8;
  const std::vector<std::int64_t> ends = {0, 1, 2, 3, 4, 5, 6, 7, 8}, slots = {0, 1, 2, 3, 4, 5, 6, 7};
  sequences = {texts, texts, ends.data(), document.data(), slots.data()};
  problem.sequences = sequences;
  std::vector<A> states(static_cast<std::size_t>(texts * heads * width * state_width));
  report("a token of 8 texts",
         seconds([&] { kernels::state_scan(cpu, problem, in, room.data(), states.data(), y.data()); }),
         2 * static_cast<double>(states.size() * sizeof(A)));
}

}  // namespace

int main(int argc, char** argv) {
  const limbeck::kernels::NoDenormals no_denormals;
  const int threads = argc > 1 ? std::atoi(argv[1]) : 1;
  const std::int64_t tokens = argc > 2 ? std::atoll(argv[2]) : 4096;
  const kernels::Cpu cpu = kernels::make_cpu(threads);
  constexpr std::int64_t rounds = 1'000'000;
  volatile float keep = 0;
  const double peak =
      threads * kernels::fma_loop_flops(rounds) / seconds([&] { keep = kernels::fma_loop(cpu, rounds); }) / 1e9;
  std::printf("%lld tokens, %lld heads of %lld, states of %lld; float32 multiply-adds of %d threads: %.0f GFLOP/s\n",
              static_cast<long long>(tokens), static_cast<long long>(heads), static_cast<long long>(width),
              static_cast<long long>(state_width), threads, peak);
  measure<float>(cpu, "float32", tokens, peak);
  measure<kernels::bf16>(cpu, "bfloat16", tokens, peak);
}
