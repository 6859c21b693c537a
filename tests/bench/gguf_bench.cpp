// How fast each storage format of GGUF becomes float32 on one core, beside copying as many float32 values; and how fast
// it is multiplied where it lies with the activations of 1 and of 4 tokens.
//
//     build/release/bin/bench_gguf
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <vector>

#include "data/models/gguf_blocks.h"
#include "kernels/blocks.h"
#include "kernels/cpu.h"
#include "tests/bench/timing.h"

namespace {

using limbeck::bench::seconds;
using limbeck::core::DType;
namespace kernels = limbeck::kernels;

/// Weights a second, in millions, of products of `rows` rows with `count` weights of rows of 1024.
double product_rate(const kernels::Blocks& weights, std::int64_t count, std::int64_t rows) {
  constexpr std::int64_t width = 1024;
  const std::int64_t out = count / width;
  const kernels::Cpu cpu = kernels::make_cpu(1);
  const std::vector<float> x(static_cast<std::size_t>(rows * width), 1.0F);
  std::vector<float> y(static_cast<std::size_t>(rows * out));
  const double time = seconds([&] { kernels::blocks_matmul(cpu, rows, out, width, x.data(), weights, 0.F, y.data()); });
  return static_cast<double>(count) / time / 1e6;
}

}  // namespace

int main() {
  constexpr std::int64_t count = std::int64_t{1} << 24U;  // 64 MiB of float32: no cache holds it
  std::vector<float> out(count);
  std::vector<float> in(count, 1.0F);
  const double copy = seconds([&] { std::memcpy(out.data(), in.data(), count * sizeof(float)); });
  std::printf("%-10s %10s %12s %8s %14s %14s\n", "", "file MB/s", "values M/s", "of copy", "x 1 row, M/s",
              "x 4 rows, M/s");
  for (const DType dtype :
       {DType::F32, DType::F16, DType::BF16, DType::Q8_0, DType::Q4_0, DType::Q4_1, DType::Q5_0, DType::Q5_1,
        DType::Q2_K, DType::Q3_K, DType::Q4_K, DType::Q5_K, DType::Q6_K, DType::IQ4_NL, DType::IQ4_XS, DType::MXFP4}) {
    const auto bytes = static_cast<std::size_t>(limbeck::core::bytes_of(dtype, count));
    std::vector<std::byte> stored(bytes);
    for (std::size_t i = 0; i < bytes; ++i) stored[i] = static_cast<std::byte>(i * 7919 % 251 / 8);
    const double time = seconds([&] { limbeck::data::dequantize(dtype, stored.data(), 0, count, out.data()); });
    std::printf("%-10s %10.0f %12.0f %8.2f", std::string(limbeck::core::name_of(dtype)).c_str(),
                static_cast<double>(bytes) / time / 1e6, count / time / 1e6, copy / time);
    if (const auto format = limbeck::core::block_format(dtype))
      for (const std::int64_t rows : {1, 4})
        std::printf(" %14.0f", product_rate({*format, stored.data()}, count, rows));
    std::printf("\n");
  }
  for (const DType dtype : {DType::F16, DType::BF16, DType::Q8_0}) {
    std::vector<std::byte> stored(static_cast<std::size_t>(limbeck::core::bytes_of(dtype, count)));
    const double time = seconds([&] { limbeck::data::quantize(dtype, in, stored.data()); });
    std::printf("to %-7s %10.0f %12.0f %8.2f\n", std::string(limbeck::core::name_of(dtype)).c_str(),
                static_cast<double>(stored.size()) / time / 1e6, count / time / 1e6, copy / time);
  }
}
