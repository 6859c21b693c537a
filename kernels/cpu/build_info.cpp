#include "kernels/build_info.h"

#include "kernels/cpu/tile_products.h"

namespace limbeck::kernels {

std::string cpu_level() { return LIMBECK_CPU_LEVEL; }

std::string bf16_product() { return std::string(tile_products().front().name); }

}  // namespace limbeck::kernels
