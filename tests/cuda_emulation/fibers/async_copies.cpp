#include "tests/cuda_emulation/fibers/async_copies.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "tests/cuda_emulation/fibers/shared_memory.h"
#include "tests/cuda_emulation/races/shadow.h"
#include "tests/cuda_emulation/report.h"

namespace limbeck::emulation {

void AsyncCopies::add(void* shared, const void* global, const std::source_location& where) {
  const auto misaligned = [](const void* p) { return reinterpret_cast<std::uintptr_t>(p) % bytes != 0; };
  if (misaligned(shared) || misaligned(global))
    fail("an asynchronous copy at {} from {} to {}, expected multiples of {}", text_of(where), global, shared, bytes);
  if (!is_shared(shared))
    fail("an asynchronous copy at {} to {}, which is not in shared memory", text_of(where), shared);
  const void* code = __builtin_return_address(0);
  note_access(shared, bytes, Touch::write, code);
  std::memset(shared, 0xff, bytes);
  copies_.push_back({shared, global, group_, code});
}

void AsyncCopies::commit() { ++group_; }

void AsyncCopies::wait(unsigned groups) {
  const auto end =
      std::find_if(copies_.begin(), copies_.end(), [&](const Copy& copy) { return copy.group + groups >= group_; });
  for (auto copy = copies_.begin(); copy != end; ++copy) {
    note_access(copy->to, bytes, Touch::write, copy->code);
    if (copy->from == nullptr) {
      std::memset(copy->to, 0, bytes);
    } else {
      note_access(copy->from, bytes, Touch::read, copy->code);
      std::memcpy(copy->to, copy->from, bytes);
    }
  }
  copies_.erase(copies_.begin(), end);
}

void AsyncCopies::clear() {
  copies_.clear();
  group_ = 0;
}

}  // namespace limbeck::emulation
