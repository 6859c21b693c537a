// The numbers of a step that an optimizer's kernels read: for each parameter a record, where the kernels run. So the
// same kernels, queued once (core/device/recorded_work.h), take another step each time that the numbers are set.
//
//     StepNumbers numbers(fragments);
//     numbers.set(i, kernels::AdamWFactors<float>{...});      // for each
//     numbers.bring();
//     kernels::adamw(device, numbers.at<kernels::AdamWFactors<float>>(i), ...);
#pragma once

#include <cstddef>
#include <cstring>
#include <type_traits>
#include <vector>

#include "optim/fragment.h"

namespace limbeck::optim {

class StepNumbers {
 public:
  StepNumbers() = default;  // of nothing
  /// A record for each, all in the memory of the first.
  explicit StepNumbers(const std::vector<Fragment>& fragments) {
    if (fragments.empty()) return;
    const core::MemoryPtr& memory = fragments.front().parameter->value.memory();
    const core::Shape shape{static_cast<std::int64_t>(fragments.size() * record_bytes)};
    here_ = core::Tensor::zeros(memory->host(), core::DType::U8, shape);
    there_ = core::Tensor::zeros(memory, core::DType::U8, shape);
  }

  template <class R>
  void set(std::size_t i, const R& record) {
    static_assert(sizeof(R) <= record_bytes && std::is_trivially_copyable_v<R>);
    std::memcpy(here_.mutable_host_raw() + i * record_bytes, &record, sizeof record);
  }
  /// All of them, to where the kernels run.
  void bring() {
    if (there_.defined()) there_.copy_from(here_);
  }
  template <class R>
  const R* at(std::size_t i) const {
    return reinterpret_cast<const R*>(there_.raw() + i * record_bytes);
  }

 private:
  static constexpr std::size_t record_bytes = 64;

  core::Tensor here_, there_;
};

}  // namespace limbeck::optim
