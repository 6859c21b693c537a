// How fast each storage format of GGUF becomes float32 on one core, beside copying as many float32 values.
//
//     build/release/bin/bench_gguf
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <vector>

#include "data/models/gguf_blocks.h"
#include "tests/bench/timing.h"

namespace {

using limbeck::bench::seconds;
using limbeck::core::DType;

}  // namespace

int main() {
  constexpr std::int64_t count = std::int64_t{1} << 24U;  // 64 MiB of float32: no cache holds it
  std::vector<float> out(count);
  std::vector<float> in(count, 1.0F);
  const double copy = seconds([&] { std::memcpy(out.data(), in.data(), count * sizeof(float)); });
  std::printf("%-10s %10s %12s %8s\n", "", "file MB/s", "values M/s", "of copy");
  for (const DType dtype :
       {DType::F32, DType::F16, DType::BF16, DType::Q8_0, DType::Q4_0, DType::Q4_1, DType::Q5_0, DType::Q5_1,
        DType::Q2_K, DType::Q3_K, DType::Q4_K, DType::Q5_K, DType::Q6_K, DType::IQ4_NL, DType::IQ4_XS, DType::MXFP4}) {
    const auto bytes = static_cast<std::size_t>(limbeck::core::bytes_of(dtype, count));
    std::vector<std::byte> stored(bytes);
    for (std::size_t i = 0; i < bytes; ++i) stored[i] = static_cast<std::byte>(i * 7919 % 251 / 8);
    const double time = seconds([&] { limbeck::data::dequantize(dtype, stored.data(), 0, count, out.data()); });
    std::printf("%-10s %10.0f %12.0f %8.2f\n", std::string(limbeck::core::name_of(dtype)).c_str(),
                static_cast<double>(bytes) / time / 1e6, count / time / 1e6, copy / time);
  }
  for (const DType dtype : {DType::F16, DType::BF16, DType::Q8_0}) {
    std::vector<std::byte> stored(static_cast<std::size_t>(limbeck::core::bytes_of(dtype, count)));
    const double time = seconds([&] { limbeck::data::quantize(dtype, in, stored.data()); });
    std::printf("to %-7s %10.0f %12.0f %8.2f\n", std::string(limbeck::core::name_of(dtype)).c_str(),
                static_cast<double>(stored.size()) / time / 1e6, count / time / 1e6, copy / time);
  }
}
