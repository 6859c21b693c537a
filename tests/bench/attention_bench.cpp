// Attention of a training step at equal numbers of tokens in sequences of more and more of them, as a share of the
// processor's peak in the same run: of float32 multiply-adds, and of bfloat16 products in its first cache.
//
//     build/release/bin/bench_attention [threads] [tokens]
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "kernels/attention.h"
#include "kernels/peak.h"
#include "tests/bench/timing.h"

namespace {

using namespace limbeck;
using bench::seconds;

constexpr std::int64_t heads = 8, kv_heads = 4, width = 64;

template <class T>
std::vector<T> filled(std::int64_t n) {
  std::vector<T> values;
  for (std::int64_t i = 0; i < n; ++i)
    values.push_back(kernels::as<T>(static_cast<float>((i * 7919) % 1009) / 250.F - 2.F));
  return values;
}

template <class T>
void measure(const kernels::Cpu& cpu, const char* type, std::int64_t tokens, std::int64_t length, double peak) {
  using Sum = kernels::Acc<T>;
  const std::int64_t segments = tokens / length;
  std::vector<std::int64_t> offsets;
  std::vector<std::int32_t> position, document(tokens);
  for (std::int64_t i = 0; i <= segments; ++i) offsets.push_back(i * length);
  for (std::int64_t i = 0; i < tokens; ++i) position.push_back(static_cast<std::int32_t>(i % length));
  const kernels::AttentionProblem problem{.num_heads = heads,
                                          .num_kv_heads = kv_heads,
                                          .width = width,
                                          .value_width = width,
                                          .scale = 0.125,
                                          .num_segments = segments,
                                          .query_offsets = offsets.data(),
                                          .key_offsets = offsets.data(),
                                          .query_position = position.data(),
                                          .key_position = position.data(),
                                          .query_document = document.data(),
                                          .key_document = document.data()};
  const auto q = filled<T>(tokens * heads * width), dout = q;
  const auto k = filled<T>(tokens * kv_heads * width), v = filled<T>(tokens * kv_heads * width);
  std::vector<T> out(q.size());
  std::vector<Sum> logsumexp(tokens * heads), dq(q.size()), dk(k.size()), dv(v.size());
  const double forward = seconds(
      [&] { kernels::attention_forward(cpu, problem, q.data(), k.data(), v.data(), out.data(), logsumexp.data()); });
  const double backward = seconds([&] {
    kernels::attention_backward(cpu, problem, q.data(), k.data(), v.data(), out.data(), logsumexp.data(), dout.data(),
                                dq.data(), dk.data(), dv.data());
  });
  // Two products of a query and a key that it sees, and five in the backward.
  const double flop = 2.0 * width * heads * static_cast<double>(segments * length * (length + 1) / 2);
  for (const auto& [what, products, time] : {std::tuple{"forward", 2, forward}, std::tuple{"backward", 5, backward}})
    std::printf("%-8s %2lld x %4lld tokens: %-8s %8.2f ms %8.1f GFLOP/s %5.1f %%\n", type,
                static_cast<long long>(segments), static_cast<long long>(length), what, time * 1e3,
                products * flop / time / 1e9, 100 * products * flop / time / 1e9 / peak);
}

}  // namespace

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : 1;
  const std::int64_t tokens = argc > 2 ? std::atoll(argv[2]) : 4096;
  const kernels::Cpu cpu = kernels::make_cpu(threads);
  constexpr std::int64_t rounds = 1'000'000;
  volatile float keep = 0;
  const double fma = kernels::fma_loop_flops(rounds) / seconds([&] { keep = kernels::fma_loop(cpu, rounds); }) / 1e9;
  const double product =
      kernels::bf16_loop_flops(rounds / 10) / seconds([&] { keep = kernels::bf16_loop(cpu, rounds / 10); }) / 1e9;
  std::printf("%lld heads, %lld of keys and values, of %lld; peaks of a thread: float32 %.0f, bfloat16 %.0f GFLOP/s\n",
              static_cast<long long>(heads), static_cast<long long>(kv_heads), static_cast<long long>(width), fma,
              product);
  for (const std::int64_t length : {256, 1024, 4096}) {
    if (length > tokens) break;
    measure<float>(cpu, "float32", tokens, length, fma * threads);
    measure<kernels::bf16>(cpu, "bfloat16", tokens, length, product * threads);
  }
}
