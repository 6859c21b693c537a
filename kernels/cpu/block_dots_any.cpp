#include "kernels/cpu/block_dots.h"

namespace limbeck::kernels {

std::optional<BlockDots> block_dots(BlockFormat) { return std::nullopt; }

}  // namespace limbeck::kernels
