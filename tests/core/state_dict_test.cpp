#include "core/state_dict.h"

#include <gmock/gmock.h>

#include <cmath>
#include <limits>

#include "tests/support/temporary_folder.h"

namespace limbeck::core {
namespace {

using ::testing::AllOf;
using testing::error_of;
using ::testing::HasSubstr;

/// One tensor w [3,5000], 1 everywhere but for one value.
class OneTensor : public StateReader {
 public:
  OneTensor(std::int64_t row, std::int64_t column, double value) : row_(row), column_(column), value_(value) {}
  std::string source() const override { return "somewhere"; }
  const std::map<std::string, StateInfo>& tensors() const override { return tensors_; }

 private:
  void fill(const std::string& /*name*/, const StateInfo& /*info*/, StateEntry& entry) const override {
    Tensor values = Tensor::zeros(entry.tensor.memory(), DType::F64, entry.tensor.shape());
    const std::int64_t columns = values.shape()[1];
    for (std::int64_t i = 0; i < values.numel(); ++i) values.mutable_data<double>()[i] = 1;
    const std::int64_t row = row_ - entry.offset[0];
    const std::int64_t column = column_ - entry.offset[1];
    if (row >= 0 && row < values.shape()[0] && column >= 0 && column < columns)
      values.mutable_data<double>()[row * columns + column] = value_;
    entry.tensor.copy_from(values.to(entry.tensor.dtype()));
  }

  std::int64_t row_;
  std::int64_t column_;
  double value_;
  std::map<std::string, StateInfo> tensors_ = {{"w", {{3, 5000}, DType::F32}}};
};

std::string error_reading(const OneTensor& reader, DType dtype, const std::vector<std::int64_t>& offset = {0, 0},
                          const Shape& box = {3, 5000}) {
  StateEntry entry{{3, 5000}, offset, Tensor::zeros(Memory::cpu(1), dtype, box), true};
  return error_of([&] { reader.read("w", entry); });
}

TEST(StateReader, NamesTensorAndPlaceOfAValueThatIsNotFinite) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  for (const DType dtype : {DType::F32, DType::F64, DType::BF16}) {
    for (const double value : {std::nan(""), infinity, -infinity})
      for (const auto& [row, column] : {std::pair{0, 0}, {1, 4095}, {2, 4999}})
        EXPECT_EQ(
            error_reading({row, column, value}, dtype),
            fmt::format("somewhere: w holds NaN or an infinity at [{},{}], expected finite numbers", row, column));
    for (const double value : {0.0, -0.0, 3e38, -3e38, 1e-45}) EXPECT_EQ(error_reading({1, 7, value}, dtype), "");
  }
}

TEST(StateReader, LooksAtTheBoxAlone) {
  const OneTensor reader(1, 7, std::nan(""));
  EXPECT_THAT(error_reading(reader, DType::F32, {1, 5}, {2, 10}), HasSubstr("at [1,7]"));
  EXPECT_EQ(error_reading(reader, DType::F32, {1, 8}, {2, 10}), "");
  EXPECT_EQ(error_reading(reader, DType::F32, {0, 0}, {0, 5000}), "");
}

TEST(StateReader, NamesWhatIsNotThere) {
  const OneTensor reader(0, 0, 1);
  StateEntry entry = StateEntry::whole(Tensor::zeros(Memory::cpu(1), DType::F32, {3, 4}));
  EXPECT_THAT(error_of([&] { reader.read("v", entry); }), AllOf(HasSubstr("somewhere"), HasSubstr("no tensor v")));
  EXPECT_THAT(error_of([&] { reader.read("w", entry); }), HasSubstr("w has shape [3,5000], expected [3,4]"));
  EXPECT_THAT(error_reading(reader, DType::F32, {2, 0}, {2, 5000}), HasSubstr("no box [2,5000] at [2,0]"));
}

}  // namespace
}  // namespace limbeck::core
