#include "kernels/copy_queue.h"

#include "kernels/copy.h"

namespace limbeck::kernels {
namespace {

class CpuCopies final : public CopyQueue {
 public:
  explicit CpuCopies(const Cpu& cpu) : cpu_(cpu) {}
  void follow_device() override {}
  void hold_device() override {}
  void upload(const void* host, void* to, std::int64_t bytes) override { copy_bytes(cpu_, host, to, bytes); }

 private:
  Cpu cpu_;
};

}  // namespace

template <class D>
CopyQueuePtr make_copy_queue(const D& cpu) {
  return std::make_unique<CpuCopies>(cpu);
}

template CopyQueuePtr make_copy_queue(const Cpu&);

}  // namespace limbeck::kernels
