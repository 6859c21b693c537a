#include "launch/run/model_fingerprint.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <vector>

namespace limbeck::launch {
namespace {

/// Tensors in memory.
class Values : public core::StateReader {
 public:
  void add(const std::string& name, core::Shape shape, std::vector<float> values) {
    infos_[name] = {shape, core::DType::F32};
    values_[name] = std::move(values);
  }
  std::string source() const override { return "values"; }
  const std::map<std::string, core::StateInfo>& tensors() const override { return infos_; }

 private:
  void fill(const std::string& name, const core::StateInfo& info, core::StateEntry& entry) const override {
    const core::Shape& shape = info.shape;
    std::int64_t first = 0;
    for (int d = 0; d < shape.rank(); ++d) first = first * shape[d] + entry.offset[static_cast<std::size_t>(d)];
    std::copy_n(values_.at(name).begin() + first, entry.tensor.numel(), entry.tensor.mutable_data<float>());
  }

  std::map<std::string, core::StateInfo> infos_;
  std::map<std::string, std::vector<float>> values_;
};

Values model(float middle, float moment = 0) {
  Values values;
  values.add("a.weight", {3, 2}, {1, 2, middle, 4, 5, 6});
  values.add("experts", {2, 2, 1}, {1, 2, 3, 4});
  values.add("norm", {3}, {1, 1, 1});
  values.add("none", {0, 4}, {});
  values.add("scalar", {}, {7});
  values.add("optimizer/a.weight/exp_avg", {1}, {moment});
  return values;
}

std::string fingerprint(const Values& values, double rope_base = 1e4) {
  nn::ModelConfig config;
  config.rope_base = rope_base;
  return model_fingerprint(values, config);
}

TEST(ModelFingerprint, IsOfTheWeightsAndTheArchitecture) {
  EXPECT_EQ(fingerprint(model(3)).size(), 16U);
  EXPECT_EQ(fingerprint(model(3)), fingerprint(model(3, 1)));
  EXPECT_NE(fingerprint(model(3)), fingerprint(model(3.5F)));
  EXPECT_NE(fingerprint(model(3)), fingerprint(model(3), 1e5));
  Values renamed = model(3);
  renamed.add("b.weight", {1}, {0});
  EXPECT_NE(fingerprint(renamed), fingerprint(model(3)));
}

/// Of a tensor beyond the limit, rows all over it.
TEST(ModelFingerprint, SeesOneExpertOfALargeStack) {
  constexpr std::int64_t rows = 2048, width = 1024;
  std::vector<float> values(static_cast<std::size_t>(4 * rows * width), 1);
  const auto of_stack = [&] {
    Values stack;
    stack.add("experts", {4, rows, width}, values);
    return fingerprint(stack);
  };
  const std::string before = of_stack();
  std::fill_n(values.begin() + 2 * rows * width, rows * width, 2.0F);
  EXPECT_NE(of_stack(), before);
}

}  // namespace
}  // namespace limbeck::launch
