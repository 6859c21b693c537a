#include <oneapi/dnnl/dnnl.h>

#include "kernels/build_info.h"

namespace limbeck::kernels {

std::string matrix_product() {
  const dnnl_version_t& version = *dnnl_version();
  return "oneDNN " + std::to_string(version.major) + "." + std::to_string(version.minor) + "." +
         std::to_string(version.patch);
}

}  // namespace limbeck::kernels
