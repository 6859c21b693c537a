// Whole tensors that are at hand, as a source of weights.
//
//     const core::StateDict state = model.state_dict();
//     other.load(KeptState(state));
#pragma once

#include <map>
#include <string>
#include <utility>

#include "core/state_dict.h"

namespace limbeck::testing {

/// The entries are whole.
class KeptState : public core::StateReader {
 public:
  explicit KeptState(core::StateDict state) : state_(std::move(state)) {
    for (const auto& [name, entry] : state_) tensors_[name] = {entry.global_shape, entry.tensor.dtype()};
  }
  std::string source() const override { return "kept state"; }
  const std::map<std::string, core::StateInfo>& tensors() const override { return tensors_; }

 private:
  void fill(const std::string& name, const core::StateInfo& info, core::StateEntry& entry) const override {
    const core::Shape &all = info.shape, &box = entry.tensor.shape();
    const core::Tensor& whole = state_.at(name).tensor;
    core::dispatch_float("kept state", whole.dtype(), [&]<class From>() {
      core::dispatch_float("kept state", entry.tensor.dtype(), [&]<class To>() {
        for (std::int64_t i = 0; i < box.numel(); ++i) {
          std::int64_t at = 0, stride = 1, rest = i;
          for (int d = box.rank() - 1; d >= 0; --d) {
            at += (entry.offset[static_cast<std::size_t>(d)] + rest % box[d]) * stride;
            rest /= box[d];
            stride *= all[d];
          }
          entry.tensor.mutable_host<To>()[i] = static_cast<To>(whole.host<From>()[at]);
        }
      });
    });
  }

  core::StateDict state_;
  std::map<std::string, core::StateInfo> tensors_;
};

}  // namespace limbeck::testing
