#include "tests/cuda_emulation/fibers/shared_memory.h"

#include <link.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "tests/cuda_emulation/report.h"

namespace limbeck::emulation {

namespace {

struct Range {
  const std::byte* begin;
  const std::byte* end;
  bool holds(const void* address) const { return address >= begin && address < end; }
};

class DynamicShared {
 public:
  DynamicShared() : page_(static_cast<std::size_t>(::sysconf(_SC_PAGESIZE))) {
    capacity_ = (max_shared_bytes + page_ - 1) / page_ * page_;
    void* memory = ::mmap(nullptr, capacity_ + page_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) fail("no memory for shared memory");
    memory_ = static_cast<std::byte*>(memory);
    ::mprotect(memory_ + capacity_, page_, PROT_NONE);
    begin_ = memory_ + capacity_;
  }
  ~DynamicShared() { ::munmap(memory_, capacity_ + page_); }
  DynamicShared(const DynamicShared&) = delete;
  DynamicShared& operator=(const DynamicShared&) = delete;

  void renew(std::size_t bytes) {
    begin_ = memory_ + capacity_ - (bytes + 127) / 128 * 128;
    std::memset(begin_, 0xff, bytes);
  }
  std::byte* begin() const { return begin_; }
  bool holds(const void* address) const { return address >= begin_ && address < memory_ + capacity_; }

 private:
  std::size_t page_;
  std::size_t capacity_ = 0;
  std::byte* memory_ = nullptr;
  std::byte* begin_ = nullptr;
};

DynamicShared& dynamic_shared() {
  thread_local DynamicShared memory;
  return memory;
}

// The thread's own variables, of each library.
std::vector<Range> thread_variables() {
  std::vector<Range> ranges;
  ::dl_iterate_phdr(
      [](dl_phdr_info* info, std::size_t, void* data) {
        if (info->dlpi_tls_data == nullptr) return 0;
        for (int i = 0; i < info->dlpi_phnum; ++i) {
          if (info->dlpi_phdr[i].p_type != PT_TLS) continue;
          const auto* begin = static_cast<const std::byte*>(info->dlpi_tls_data);
          static_cast<std::vector<Range>*>(data)->push_back({begin, begin + info->dlpi_phdr[i].p_memsz});
        }
        return 0;
      },
      &ranges);
  return ranges;
}

}  // namespace

void renew_dynamic_shared(std::size_t bytes) { dynamic_shared().renew(bytes); }

void* dynamic_shared_begin() { return dynamic_shared().begin(); }

bool is_shared(const void* address) {
  if (dynamic_shared().holds(address)) return true;
  thread_local const std::vector<Range> variables = thread_variables();
  return std::any_of(variables.begin(), variables.end(), [&](const Range& range) { return range.holds(address); });
}

}  // namespace limbeck::emulation
