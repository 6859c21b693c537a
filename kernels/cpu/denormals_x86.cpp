#include <xmmintrin.h>

#include "kernels/denormals.h"

namespace limbeck::kernels {

// Intel's manual, volume 1, 10.2.3: MXCSR. A new thread has its creator's (clone(2) copies the registers). Not the bit
// that takes factors for zero too: half precision is widened by a product with such numbers (data/files/half.h).
NoDenormals::NoDenormals() : before_(_mm_getcsr()) {
  constexpr unsigned flush_to_zero = 1U << 15U;
  _mm_setcsr(before_ | flush_to_zero);
}
NoDenormals::~NoDenormals() { _mm_setcsr(before_); }

}  // namespace limbeck::kernels
