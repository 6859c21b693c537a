// The choice on processors of the level x86-64-v4.
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <vector>

#include "kernels/cpu/tile_portable.h"
#include "kernels/cpu/tile_v4.h"

namespace limbeck::kernels {
namespace {

struct Leaf {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};
Leaf features(unsigned part) {
  Leaf leaf;
  __get_cpuid_count(7, part, &leaf.eax, &leaf.ebx, &leaf.ecx, &leaf.edx);
  return leaf;
}

// Intel's manual, volume 2, CPUID, leaf 7.
constexpr unsigned avx512_bf16_in_eax = 1U << 5U, amx_bf16_in_edx = 1U << 22U, amx_tile_in_edx = 1U << 24U;

bool has_avx512_bf16() { return (features(1).eax & avx512_bf16_in_eax) != 0; }

/// Whether the processor has it and the system gives this process the registers' room (Linux, arch_prctl(2)).
bool has_amx_bf16() {
  constexpr unsigned needed = amx_tile_in_edx | amx_bf16_in_edx;
  constexpr long request_permission = 0x1023, tile_data = 18;
  return (features(0).edx & needed) == needed && ::syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
}

std::vector<TileProduct> find_products() {
  std::vector<TileProduct> found;
  if (has_avx512_bf16() && has_amx_bf16())
    found.push_back({"AMX", run_amx_tile, begin_amx_tiles, end_amx_tiles, round_rows_avx512_bf16, stream_tile_avx512});
  if (has_avx512_bf16())
    found.push_back(
        {"AVX-512 BF16", run_avx512_bf16_tile, [] {}, end_streams, round_rows_avx512_bf16, stream_tile_avx512});
  found.push_back({"float32", run_portable_tile<12>});
  return found;
}

}  // namespace

std::span<const TileProduct> tile_products() {
  static const std::vector<TileProduct> products = find_products();
  return products;
}

}  // namespace limbeck::kernels
