// Times of a GPU's kernels beside what its memory and its tensor cores give, measured in the same run. A line of JSON
// each, then a table.
//
//     bench_gpu [REGEX]
#include <cuda_runtime.h>
#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <nlohmann/json.hpp>
#include <regex>
#include <string>
#include <vector>

#include "kernels/adamw.h"
#include "kernels/add_rms_norm.h"
#include "kernels/attention.h"
#include "kernels/convert.h"
#include "kernels/cuda/blas.h"
#include "kernels/cuda/grouped_product.h"
#include "kernels/distillation.h"
#include "kernels/elementwise.h"
#include "kernels/embedding.h"
#include "kernels/permute.h"
#include "kernels/rms_norm.h"
#include "kernels/rope.h"
#include "kernels/softmax.h"
#include "kernels/sums.h"
#include "kernels/swiglu.h"
#include "kernels/topk.h"

namespace limbeck::kernels {
namespace {

const Cuda& gpu() {
  static const auto* cuda = new Cuda(make_cuda(0));
  return *cuda;
}

/// n values on the GPU, of bits that make ordinary numbers in every type.
template <class T>
T* values(std::int64_t n) {
  void* memory = nullptr;
  check_cuda(cudaMalloc(&memory, static_cast<std::size_t>(n) * sizeof(T)));
  check_cuda(cudaMemset(memory, 0x3c, static_cast<std::size_t>(n) * sizeof(T)));
  return static_cast<T*>(memory);
}

template <class T>
T* values(const std::vector<T>& host) {
  T* const there = values<T>(std::ssize(host));
  check_cuda(cudaMemcpy(there, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice));
  return there;
}

/// Seconds of a run, the median of 21 behind three that are not timed.
double seconds(const std::function<void()>& run) {
  cudaEvent_t begin = nullptr, end = nullptr;
  check_cuda(cudaEventCreate(&begin));
  check_cuda(cudaEventCreate(&end));
  std::vector<float> times;
  for (int i = 0; i < 24; ++i) {
    check_cuda(cudaEventRecord(begin, gpu().state->stream));
    run();
    check_cuda(cudaEventRecord(end, gpu().state->stream));
    check_cuda(cudaEventSynchronize(end));
    float milliseconds = 0;
    check_cuda(cudaEventElapsedTime(&milliseconds, begin, end));
    if (i >= 3) times.push_back(milliseconds);
  }
  check_cuda(cudaEventDestroy(begin));
  check_cuda(cudaEventDestroy(end));
  std::nth_element(times.begin(), times.begin() + 10, times.end());
  return times[10] / 1e3;
}

struct Case {
  std::string name;
  double bytes = 0, flops = 0;  // one of them
  std::function<void()> run;
};

/// Shapes of a 7B-sized layer: 8192 tokens of width 4096.
std::vector<Case> cases() {
  constexpr std::int64_t tokens = 8192, width = 4096, n = tokens * width;
  std::vector<Case> all;
  const auto memory = [&](std::string name, double bytes, std::function<void()> run) {
    all.push_back({.name = std::move(name), .bytes = bytes, .run = std::move(run)});
  };
  const auto product = [&](std::string name, double flops, std::function<void()> run) {
    all.push_back({.name = std::move(name), .flops = flops, .run = std::move(run)});
  };
  auto *x = values<bf16>(n), *y = values<bf16>(n), *z = values<bf16>(n), *w = values<bf16>(n), *v = values<bf16>(n);
  auto *fx = values<float>(n), *fy = values<float>(n), *weight = values<float>(width), *rows = values<float>(tokens);
  memory("convert float -> bf16", 6.0 * n, [=] { convert(gpu(), fx, x, n); });
  memory("add bf16", 6.0 * n, [=] { add(gpu(), x, y, z, n); });
  memory("swiglu bf16", 6.0 * n, [=] { swiglu(gpu(), x, y, z, n); });
  memory("swiglu_gradient bf16", 10.0 * n, [=] { swiglu_gradient(gpu(), x, y, z, w, v, n); });
  memory("rms_norm float -> bf16", 6.0 * n, [=] { rms_norm(gpu(), fx, weight, y, rows, tokens, width, 1e-5); });
  memory("rms_norm_input_gradient", 10.0 * n,
         [=] { rms_norm_input_gradient(gpu(), fx, weight, rows, y, false, fy, tokens, width); });
  memory("add_rms_norm float, bf16", 12.0 * n,
         [=] { add_rms_norm(gpu(), fx, y, weight, fy, z, rows, tokens, width, 1e-5); });
  auto *cos = values<float>(4096 * 64), *sin = values<float>(4096 * 64);
  auto* position = values(std::vector<std::int32_t>(tokens, 17));
  memory("rope bf16, 32 heads of 128", 4.0 * n, [=] {
    rope(gpu(), RopeHeads<bf16>{x, 32}, RopeHeads<bf16>{}, position, cos, sin, 1, tokens, 128);
  });
  memory("sum_of_squares float", 4.0 * n, [=] { sum_of_squares(gpu(), fx, n, reinterpret_cast<double*>(rows)); });
  auto *mean = values<float>(n), *square = values<float>(n);
  memory("adamw float", 28.0 * n, [=] {
    adamw(gpu(), AdamWFactors<float>{1, 0.1F, 0.95F, 0.05F, 1e-3F, 1, 1e-8F}, nullptr, fx, fy, mean, square, n);
  });
  constexpr std::int64_t experts = 64, selected = 8;
  auto *scores = values<float>(tokens * experts), *shares = values<float>(tokens * experts);
  auto* selection = values(std::vector<std::int32_t>(tokens * selected, 3));
  memory("softmax float, 64 experts", 8.0 * tokens * experts, [=] { softmax(gpu(), scores, shares, tokens, experts); });
  memory("topk 8 of 64", 4.0 * tokens * (experts + selected),
         [=] { topk(gpu(), shares, selection, tokens, experts, selected); });
  std::vector<std::int32_t> spread(tokens * selected);
  for (std::size_t i = 0; i < spread.size(); ++i) spread[i] = static_cast<std::int32_t>(i * 7 % experts);
  auto* chosen = values(spread);
  auto* counts = values<std::int64_t>(experts);
  auto *row_of = values<std::int32_t>(tokens * selected), *source = values<std::int32_t>(tokens * selected);
  memory("sort_by_expert", 12.0 * tokens * selected,
         [=] { sort_by_expert(gpu(), chosen, tokens, selected, experts, counts, row_of, source); });
  constexpr std::int64_t narrow = 1024;
  auto* sorted = values<bf16>(tokens * selected * narrow);
  memory("permute_rows bf16", 2.0 * tokens * narrow * (1 + selected),
         [=] { permute_rows(gpu(), x, source, sorted, tokens * selected, selected, narrow); });
  auto* combine = values<float>(tokens * selected);
  memory("unpermute_rows bf16", 2.0 * tokens * narrow * (1 + selected),
         [=] { unpermute_rows(gpu(), sorted, row_of, combine, y, tokens, selected, narrow); });
  constexpr std::int64_t chunk = 512, vocabulary = 131072;
  auto *logits = values<float>(chunk * vocabulary), *teacher = values<float>(chunk * vocabulary);
  auto* targets = values(std::vector<std::int32_t>(chunk, 5));
  auto *maxima = values<double>(2 * chunk), *indices = values<double>(2 * chunk);
  auto *sums = values<double>(chunk * num_logits_sums), *least = values<double>(chunk);
  const LogitsRows<float> both{chunk, vocabulary, vocabulary, logits, teacher, targets, 0, 1};
  memory("distillation of 512 x 128k logits", 4.0 * chunk * vocabulary * 7, [=] {
    logits_maxima(gpu(), both, both.student, maxima, indices);
    logits_maxima(gpu(), both, both.teacher, maxima + chunk, indices + chunk);
    logits_sums(gpu(), both, maxima, maxima + chunk, sums);
    logits_gradient(gpu(), both, maxima, maxima + chunk, sums, 0.1, 1.0, logits, least);
  });

  for (const auto [m, nn, k] : {std::array{tokens, width, width}, std::array{tokens, std::int64_t{14336}, width}}) {
    auto *a = values<bf16>(m * k), *b = values<bf16>(nn * k), *c = values<bf16>(m * nn);
    product(fmt::format("product bf16 {}x{}x{}", m, nn, k), 2.0 * static_cast<double>(m * nn * k),
            [=, m = m, nn = nn, k = k] {
              blas_product(gpu(), {Transpose::No, Transpose::Yes, m, nn, k}, a, b, 0.0, c, nn);
            });
  }
  struct Mixture {
    std::int64_t experts, selected, width, hidden, tokens;
  };
  for (const Mixture& m : {Mixture{8, 2, 4096, 14336, 8192}, Mixture{128, 8, 2048, 768, 16384}}) {
    const std::int64_t routed = m.tokens * m.selected;
    std::vector<std::int64_t> even;
    for (std::int64_t e = 0; e <= m.experts; ++e) even.push_back(routed * e / m.experts);
    auto* offsets = values(even);
    auto *a = values<bf16>(routed * m.width), *b = values<bf16>(m.experts * m.width * m.hidden),
         *c = values<bf16>(routed * m.hidden);
    auto* d = values<float>(m.experts * m.width * m.hidden);
    const double flops = 2.0 * static_cast<double>(routed * m.width * m.hidden);
    const std::string of =
        fmt::format("E {} top {}, {} x {}, {} tokens", m.experts, m.selected, m.width, m.hidden, m.tokens);
    product("grouped product, " + of, flops, [=] {
      grouped_product(gpu(), {m.experts, m.hidden, m.width, Transpose::Yes}, offsets, a, b, 0.0, c);
    });
    product("grouped weight gradient, " + of, flops,
            [=] { grouped_product_of_terms(gpu(), m.experts, m.hidden, m.width, offsets, c, a, 0.0, d); });
  }
  for (const std::int64_t head_width : {64, 128}) {
    constexpr std::int64_t length = 2048, sequences = 2, heads = 16, kv_heads = 4, all_tokens = length * sequences;
    std::vector<std::int32_t> positions, documents(all_tokens, 0);
    for (std::int64_t i = 0; i < all_tokens; ++i) positions.push_back(static_cast<std::int32_t>(i % length));
    auto *p = values(positions), *of = values(documents);
    auto* offsets = values(std::vector<std::int64_t>{0, length, 2 * length});
    const AttentionProblem problem{heads,      kv_heads, head_width, head_width, 0.1, sequences, all_tokens,
                                   all_tokens, offsets,  offsets,    p,          p,   of,        of};
    auto *q = values<bf16>(all_tokens * heads * head_width), *k = values<bf16>(all_tokens * kv_heads * head_width),
         *vv = values<bf16>(all_tokens * kv_heads * head_width), *out = values<bf16>(all_tokens * heads * head_width);
    auto* lse = values<float>(all_tokens * heads);
    auto *dq = values<float>(all_tokens * heads * head_width), *dk = values<float>(all_tokens * kv_heads * head_width),
         *dv = values<float>(all_tokens * kv_heads * head_width);
    const double pairs = static_cast<double>(sequences * heads) * length * length / 2;
    product(fmt::format("attention forward, 2 x 2048, 16 heads of {}", head_width),
            4 * pairs * static_cast<double>(head_width),
            [=] { attention_forward(gpu(), problem, q, k, vv, out, lse); });
    product(fmt::format("attention backward, 2 x 2048, 16 heads of {}", head_width),
            10 * pairs * static_cast<double>(head_width),
            [=] { attention_backward(gpu(), problem, q, k, vv, out, lse, out, dq, dk, dv); });
  }
  return all;
}

void run(const std::regex& chosen) {
  constexpr std::int64_t gibibyte = std::int64_t{1} << 30;
  auto *from = values<std::uint8_t>(gibibyte), *to = values<std::uint8_t>(gibibyte);
  const double copied =
      seconds([=] { check_cuda(cudaMemcpyAsync(to, from, gibibyte, cudaMemcpyDeviceToDevice, gpu().state->stream)); });
  const double bandwidth = 2.0 * gibibyte / copied;
  constexpr std::int64_t side = 8192;
  auto *a = values<bf16>(side * side), *b = values<bf16>(side * side), *c = values<bf16>(side * side);
  const double rate = 2.0 * side * side * side / seconds([=] {
                        blas_product(gpu(), {Transpose::No, Transpose::Yes, side, side, side}, a, b, 0.0, c, side);
                      });
  cudaDeviceProp properties{};
  check_cuda(cudaGetDeviceProperties(&properties, 0));
  fmt::print("{}: copies {:.0f} GB/s, products of bf16 {:.0f} TFLOP/s\n\n", properties.name, bandwidth / 1e9,
             rate / 1e12);
  fmt::print("| kernel | microseconds | GB/s or TFLOP/s | share |\n|---|---|---|---|\n");
  for (const Case& one : cases()) {
    if (!std::regex_search(one.name, chosen)) continue;
    const double s = seconds(one.run);
    const bool is_memory = one.bytes > 0;
    const double speed = is_memory ? one.bytes / s : one.flops / s, share = speed / (is_memory ? bandwidth : rate);
    fmt::print("| {} | {:.1f} | {:.0f} {} | {:.0f} % |\n", one.name, 1e6 * s, speed / (is_memory ? 1e9 : 1e12),
               is_memory ? "GB/s" : "TFLOP/s", 100 * share);
    fmt::print(stderr, "{}\n",
               nlohmann::json{{"kernel", one.name}, {"seconds", s}, {"speed", speed}, {"share", share}}.dump());
  }
}

}  // namespace
}  // namespace limbeck::kernels

int main(int argc, char** argv) try {
  limbeck::kernels::run(std::regex(argc > 1 ? argv[1] : ""));
} catch (const std::exception& e) {
  fmt::print(stderr, "bench_gpu: error: {}\n", e.what());
  return 1;
}
