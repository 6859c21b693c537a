// A thread's asynchronous copies (cp.async): the data come when the thread waits for them, as late as CUDA allows.
// Until then their place holds 0xff, so that who reads it too early, or still needs what was there, gets NaN.
#pragma once

#include <cstddef>
#include <source_location>
#include <vector>

namespace limbeck::emulation {

class AsyncCopies {
 public:
  static constexpr std::size_t bytes = 16;  // of each

  /// `global` null: zeros. Fails unless both are multiples of 16 bytes and `shared` is the block's shared memory.
  void add(void* shared, const void* global, const std::source_location& where);
  void commit();
  /// Until at most `groups` of those that were committed are under way.
  void wait(unsigned groups);
  /// What was never waited for never comes.
  void clear();

 private:
  struct Copy {
    void* to;
    const void* from;
    unsigned group;
    const void* code;
  };
  std::vector<Copy> copies_;
  unsigned group_ = 0;  // that is open
};

}  // namespace limbeck::emulation
