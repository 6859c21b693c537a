// What steps leave behind: whole tensors, put together of what ranks would write, and how two runs of steps are
// compared.
//
//     WrittenState written;
//     run_ranks(2, [&](RankWorld& world) { ...; written.add(steps.state()); });
//     seen.state = values_of(written.whole());
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "core/state_dict.h"
#include "data/checkpoints/tensor_boxes.h"

namespace limbeck::testing {

/// Whole tensors, put together of the boxes that ranks would write into a checkpoint, which have to tile them.
class WrittenState {
 public:
  /// Called by every rank.
  void add(const core::StateDict& state) {
    const std::scoped_lock lock(mutex_);
    for (const auto& [name, entry] : state) {
      if (!entry.write) continue;
      const core::Tensor value = entry.value().to(core::DType::F64);
      boxes_[name].push_back({{name, core::DType::F64, entry.global_shape, entry.offset, value.shape()}, value});
    }
  }
  core::StateDict whole() const {
    core::StateDict state;
    const std::string file = "ranks";
    for (const auto& [name, boxes] : boxes_) {
      std::vector<data::PlacedBox> placed;
      for (const Box& box : boxes) placed.push_back({&box.box, &file});
      data::check_tiling("state", placed);
      const core::Shape& shape = boxes.front().box.global_shape;
      core::Tensor all = core::Tensor::zeros(core::Memory::cpu(1), core::DType::F64, shape);
      const data::TensorBox target{name, core::DType::F64, shape, std::vector<std::int64_t>(shape.extents().size(), 0),
                                   shape};
      for (const Box& box : boxes)
        data::for_each_shared_run(box.box, target, [&](std::int64_t from, std::int64_t to, std::int64_t count) {
          std::copy_n(box.value.host<double>() + from, count, all.mutable_host<double>() + to);
        });
      state[name] = core::StateEntry::whole(all);
    }
    return state;
  }

 private:
  struct Box {
    data::TensorBox box;
    core::Tensor value;
  };
  std::mutex mutex_;
  std::map<std::string, std::vector<Box>> boxes_;
};

struct Seen {
  std::vector<double> losses, norms;
  std::map<std::string, std::vector<double>> state;  // parameters and what the optimizer keeps
};

inline std::map<std::string, std::vector<double>> values_of(const core::StateDict& state) {
  std::map<std::string, std::vector<double>> values;
  for (const auto& [name, entry] : state) values[name] = core::host_values<double>(entry.tensor);
  return values;
}

/// To rounding, of the greatest value of each tensor.
inline void expect_near(const Seen& actual, const Seen& expected, double tolerance) {
  for (std::size_t i = 0; i < expected.losses.size(); ++i) {
    EXPECT_NEAR(actual.losses[i], expected.losses[i], tolerance * expected.losses[i]) << "step " << i + 1;
    EXPECT_NEAR(actual.norms[i], expected.norms[i], tolerance * expected.norms[i]) << "step " << i + 1;
  }
  ASSERT_EQ(actual.state.size(), expected.state.size());
  for (const auto& [name, values] : expected.state) {
    const std::vector<double>& others = actual.state.at(name);
    ASSERT_EQ(others.size(), values.size()) << name;
    double greatest = 0, worst = 0;
    for (std::size_t i = 0; i < values.size(); ++i) {
      greatest = std::max(greatest, std::abs(values[i]));
      worst = std::max(worst, std::abs(others[i] - values[i]));
    }
    EXPECT_LE(worst, tolerance * greatest) << name;
  }
}

}  // namespace limbeck::testing
