#include "kernels/denormals.h"

namespace limbeck::kernels {

NoDenormals::NoDenormals() = default;
NoDenormals::~NoDenormals() = default;

}  // namespace limbeck::kernels
