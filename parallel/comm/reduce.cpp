#include "parallel/comm/reduce.h"

#include <algorithm>
#include <array>
#include <type_traits>

namespace limbeck::parallel {
namespace {

constexpr std::int64_t block = 1024;  // elements summed at a time: stays in the first cache

template <class T>
void reduce_typed(core::Reduce reduction, std::span<const std::byte* const> sources,
                  std::span<std::byte* const> destinations, std::int64_t count) {
  using Sum = kernels::Acc<T>;
  std::array<Sum, block> sum;
  for (std::int64_t start = 0; start < count; start += block) {
    const std::int64_t n = std::min(block, count - start);
    const auto part = [&](const std::byte* of) { return reinterpret_cast<const T*>(of) + start; };
    for (std::int64_t i = 0; i < n; ++i) sum[i] = static_cast<Sum>(part(sources[0])[i]);
    for (std::size_t s = 1; s < sources.size(); ++s) {
      const T* from = part(sources[s]);
      if (reduction == core::Reduce::Sum) {
        for (std::int64_t i = 0; i < n; ++i) sum[i] += static_cast<Sum>(from[i]);
      } else {
        for (std::int64_t i = 0; i < n; ++i) {
          const Sum x = static_cast<Sum>(from[i]);
          sum[i] = (x > sum[i] || x != x) ? x : sum[i];
        }
      }
    }
    for (std::byte* to : destinations) {
      T* y = reinterpret_cast<T*>(to) + start;
      for (std::int64_t i = 0; i < n; ++i) y[i] = kernels::as<T>(sum[i]);
    }
  }
}

}  // namespace

void reduce(core::DType dtype, core::Reduce reduction, std::span<const std::byte* const> sources,
            std::span<std::byte* const> destinations, std::int64_t count) {
  if (dtype == core::DType::F32)
    reduce_typed<float>(reduction, sources, destinations, count);
  else if (dtype == core::DType::F64)
    reduce_typed<double>(reduction, sources, destinations, count);
  else if (dtype == core::DType::BF16)
    reduce_typed<core::bf16>(reduction, sources, destinations, count);
  else
    reduce_typed<std::int64_t>(reduction, sources, destinations, count);
}

void check_reducible(const char* op, core::DType dtype) {
  core::check(dtype == core::DType::F32 || dtype == core::DType::F64 || dtype == core::DType::BF16 ||
                  dtype == core::DType::I64,
              "{}: dtype is {}, expected float32, float64, bfloat16 or int64", op, dtype);
}

}  // namespace limbeck::parallel
