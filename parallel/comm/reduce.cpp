#include "parallel/comm/reduce.h"

#include <algorithm>
#include <array>
#include <cstring>

namespace limbeck::parallel {
namespace {

constexpr std::int64_t block = 1024;  // elements summed at a time: stays in the first cache

template <class T>
void reduce_typed(core::Reduce reduction, std::span<const std::byte* const> sources,
                  std::span<std::byte* const> destinations, std::int64_t count) {
  std::array<T, block> sum;
  for (std::int64_t start = 0; start < count; start += block) {
    const std::int64_t n = std::min(block, count - start);
    const auto bytes = static_cast<std::size_t>(n) * sizeof(T);
    std::memcpy(sum.data(), sources[0] + start * std::int64_t{sizeof(T)}, bytes);
    for (std::size_t s = 1; s < sources.size(); ++s) {
      const T* x = reinterpret_cast<const T*>(sources[s]) + start;
      if (reduction == core::Reduce::Sum)
        for (std::int64_t i = 0; i < n; ++i) sum[i] += x[i];
      else
        for (std::int64_t i = 0; i < n; ++i) sum[i] = (x[i] > sum[i] || x[i] != x[i]) ? x[i] : sum[i];
    }
    for (std::byte* to : destinations) std::memcpy(to + start * std::int64_t{sizeof(T)}, sum.data(), bytes);
  }
}

}  // namespace

void reduce(core::DType dtype, core::Reduce reduction, std::span<const std::byte* const> sources,
            std::span<std::byte* const> destinations, std::int64_t count) {
  if (dtype == core::DType::F32)
    reduce_typed<float>(reduction, sources, destinations, count);
  else if (dtype == core::DType::F64)
    reduce_typed<double>(reduction, sources, destinations, count);
  else
    reduce_typed<std::int64_t>(reduction, sources, destinations, count);
}

void check_reducible(const char* op, core::DType dtype) {
  core::check(dtype == core::DType::F32 || dtype == core::DType::F64 || dtype == core::DType::I64,
              "{}: dtype is {}, expected float32, float64 or int64", op, dtype);
}

}  // namespace limbeck::parallel
