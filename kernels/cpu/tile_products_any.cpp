#include "kernels/cpu/tile_portable.h"

namespace limbeck::kernels {

std::span<const TileProduct> tile_products() {
  static constexpr TileProduct products[] = {{"float32", run_portable_tile<6>}};  // 12 of 16 registers of 8
  return products;
}

}  // namespace limbeck::kernels
