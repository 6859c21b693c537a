#include "kernels/build_info.h"

namespace limbeck::kernels {

std::string matrix_product() { return "plain loop"; }

}  // namespace limbeck::kernels
