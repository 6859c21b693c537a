#include "core/ops/state_scan.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "tests/support/gradient_check.h"
#include "tests/support/sequences.h"
#include "tests/support/tensors.h"

namespace limbeck::core {
namespace {

using testing::bit_identical, testing::check_gradients, testing::random_tensor, testing::relative_difference;
using testing::DocumentLengths, testing::sequences_of, testing::state_of;
using ::testing::Each, ::testing::HasSubstr, ::testing::IsNan, ::testing::ThrowsMessage;

const auto memory = Memory::cpu(1);

/// x, dt, b, c, dt_bias, a_log, skip, of values that bfloat16 holds.
std::vector<Tensor> make_inputs(const MemoryPtr& on, const ScanShape& s, std::int64_t tokens,
                                DType dtype = DType::F64) {
  const DType sums = sum_dtype(dtype);
  const auto random = [&](const Shape& shape, std::uint64_t seed, DType as, double scale = 1) {
    return random_tensor(on, shape, seed, scale, DType::BF16).to(as);
  };
  return {random({tokens, s.num_heads * s.width}, 1, dtype),
          random({tokens, s.num_heads}, 2, dtype),
          random({tokens, s.num_groups * s.state_width}, 3, dtype),
          random({tokens, s.num_groups * s.state_width}, 4, dtype),
          random({s.num_heads}, 5, sums),
          random({s.num_heads}, 6, sums, 2),
          random({s.num_heads}, 7, sums)};
}
Var scan(Tape& tape, std::span<const Var> in, const ScanShape& shape, const Sequences& sequences,
         const std::optional<SequenceState>& state = {}) {
  return state_scan(tape, in[0], in[1], in[2], in[3], {in[4], in[5], in[6]}, shape, sequences, state);
}
Tensor scanned(const std::vector<Tensor>& in, const ScanShape& shape, const Sequences& sequences,
               const std::optional<SequenceState>& state = {}) {
  std::vector<Var> vars;
  for (const Tensor& t : in) vars.push_back(constant(t));
  Tape tape(Tape::Mode::Off);
  return scan(tape, vars, shape, sequences, state).value;
}
/// The inputs of tokens [first, first + count).
std::vector<Tensor> of_tokens(std::vector<Tensor> in, std::int64_t first, std::int64_t count) {
  for (std::size_t i = 0; i < 4; ++i) in[i] = in[i].rows(first, count);
  return in;
}

/// The recurrence as it is defined, in float64.
Tensor naive(const std::vector<Tensor>& in, const ScanShape& s, const DocumentLengths& lengths) {
  Tensor out = empty_like(in[0]);
  const auto at = [&](int i, std::int64_t index) { return in[static_cast<std::size_t>(i)].data<double>()[index]; };
  std::int64_t t = 0;
  for (const auto& sequence : lengths)
    for (const std::int64_t length : sequence) {
      std::vector<double> state(static_cast<std::size_t>(s.num_heads * s.width * s.state_width), 0.0);
      for (const std::int64_t end = t + length; t < end; ++t)
        for (std::int64_t h = 0; h < s.num_heads; ++h) {
          const std::int64_t group = h / (s.num_heads / s.num_groups);
          const double step =
              std::clamp(std::log1p(std::exp(at(1, t * s.num_heads + h) + at(4, h))), s.least_step, s.most_step);
          const double decay = std::exp(-std::exp(at(5, h)) * step);
          for (std::int64_t e = 0; e < s.width; ++e) {
            const std::int64_t place = (t * s.num_heads + h) * s.width + e;
            double y = at(6, h) * at(0, place);
            for (std::int64_t n = 0; n < s.state_width; ++n) {
              const std::int64_t row = (t * s.num_groups + group) * s.state_width + n;
              double& value = state[static_cast<std::size_t>((h * s.width + e) * s.state_width + n)];
              value = decay * value + step * at(0, place) * at(2, row);
              y += value * at(3, row);
            }
            out.mutable_data<double>()[place] = y;
          }
        }
    }
  return out;
}

constexpr ScanShape small{.num_heads = 4, .width = 3, .num_groups = 2, .state_width = 5};
constexpr ScanShape uneven{
    .num_heads = 3, .width = 37, .num_groups = 1, .state_width = 41, .least_step = 0.1, .most_step = 2};

TEST(StateScan, EqualsTheDefinition) {
  for (const int threads : {1, 2})
    for (const ScanShape& shape : {small, uneven})
      for (const auto& lengths :
           {DocumentLengths{}, DocumentLengths{{1}}, DocumentLengths{{7}, {1, 3}, {}}, DocumentLengths{{64}},
            DocumentLengths{{300}}, DocumentLengths{{65, 130, 1}, {64}, {129}}}) {
        const auto on = Memory::cpu(threads);
        const Sequences sequences = sequences_of(on, lengths);
        const std::vector<Tensor> in = make_inputs(on, shape, sequences.document.numel());
        EXPECT_LT(relative_difference(scanned(in, shape, sequences), naive(in, shape, lengths)), 1e-13);
      }
}

TEST(StateScan, Gradients) {
  for (const auto& lengths : {DocumentLengths{}, DocumentLengths{{1}}, DocumentLengths{{3, 4}, {}, {1}}}) {
    const Sequences sequences = sequences_of(memory, lengths);
    check_gradients([&](Tape& tape, std::span<const Var> in) { return scan(tape, in, small, sequences); },
                    make_inputs(memory, small, sequences.document.numel()));
  }
}

// Over three chunks, with a document in between; and where steps are held within limits.
TEST(StateScan, GradientsThroughChunks) {
  const ScanShape shape{
      .num_heads = 2, .width = 2, .num_groups = 1, .state_width = 2, .least_step = 0.3, .most_step = 1.5};
  const Sequences sequences = sequences_of(memory, {{150, 3}});
  std::vector<Tensor> in = make_inputs(memory, shape, 153);
  in[5].mutable_data<double>()[0] = -4;  // a state that lasts
  check_gradients([&](Tape& tape, std::span<const Var> v) { return scan(tape, v, shape, sequences); }, in);
}

struct Gradients {
  Tensor y;
  std::vector<Tensor> d;
};
Gradients gradients(const MemoryPtr& on, DType dtype, const ScanShape& shape, const DocumentLengths& lengths,
                    std::int64_t first = 0) {
  const Sequences sequences = sequences_of(on, lengths);
  const std::int64_t tokens = sequences.document.numel();
  const std::vector<Tensor> in = of_tokens(make_inputs(on, shape, 400, dtype), first, tokens);
  std::vector<Var> vars;
  for (const Tensor& t : in) vars.push_back(leaf(t));
  Tape tape;
  const Var y = scan(tape, vars, shape, sequences);
  const Tensor dy = random_tensor(on, {400, shape.num_heads * shape.width}, 9, 1.0, DType::BF16).to(dtype);
  accumulate(y.slot, dy.rows(first, tokens));
  tape.run();
  Gradients found{y.value, {}};
  for (const Var& v : vars) found.d.push_back(v.slot->grad);
  return found;
}

TEST(StateScan, ThreadsChangeNoBit) {
  const DocumentLengths lengths{{70, 130}, {}, {200}};
  const Gradients one = gradients(memory, DType::F32, uneven, lengths);
  for (const int threads : {2, 5}) {
    const Gradients some = gradients(Memory::cpu(threads), DType::F32, uneven, lengths);
    EXPECT_TRUE(bit_identical(one.y, some.y));
    for (std::size_t i = 0; i < one.d.size(); ++i) EXPECT_TRUE(bit_identical(one.d[i], some.d[i])) << i;
  }
}

// A document has the same values whatever is beside it.
TEST(StateScan, PackedDocumentsAreAsAlone) {
  const Gradients packed = gradients(memory, DType::F32, small, {{70, 130}, {200}});
  std::int64_t first = 0;
  for (const std::int64_t length : {70, 130, 200}) {
    const Gradients alone = gradients(memory, DType::F32, small, {{length}}, first);
    EXPECT_TRUE(bit_identical(alone.y, packed.y.rows(first, length)));
    for (std::size_t i = 0; i < 4; ++i) EXPECT_TRUE(bit_identical(alone.d[i], packed.d[i].rows(first, length))) << i;
    first += length;
  }
}

TEST(StateScan, NarrowTypesAgreeWithFloat64) {
  const DocumentLengths lengths{{70, 130}, {200}};
  const Gradients right = gradients(memory, DType::F64, uneven, lengths);
  for (const auto& [dtype, tolerance] : {std::pair{DType::F32, 4e-6}, std::pair{DType::BF16, 0x1p-8}}) {
    const Gradients found = gradients(memory, dtype, uneven, lengths);
    EXPECT_LT(relative_difference(found.y.to(DType::F64), right.y), tolerance);
    for (std::size_t i = 0; i < right.d.size(); ++i)
      EXPECT_LT(relative_difference(found.d[i].to(DType::F64), right.d[i]), i < 4 ? tolerance : 2e-5) << i;
  }
}

// States that last for a long text, and such as are gone within a token: no power is out of range.
TEST(StateScan, TakesAnyDecay) {
  for (const double log_rate : {-30.0, 8.0}) {
    const ScanShape shape{.num_heads = 1, .width = 4, .num_groups = 1, .state_width = 4};
    std::vector<Tensor> in = make_inputs(memory, shape, 200);
    in[5].mutable_data<double>()[0] = log_rate;
    std::vector<Tensor> narrow;
    for (const Tensor& t : in) narrow.push_back(t.to(DType::F32));
    const Sequences sequences = sequences_of(memory, {{200}});
    EXPECT_LT(relative_difference(scanned(narrow, shape, sequences).to(DType::F64), naive(in, shape, {{200}})), 1e-5);
  }
}

TEST(StateScan, KeepsWhatIsNoNumber) {
  const ScanShape shape{.num_heads = 1, .width = 2, .num_groups = 1, .state_width = 2};
  for (const std::size_t input : {1, 5}) {  // dt of the first token, a_log
    std::vector<Tensor> in = make_inputs(memory, shape, 3);
    in[input].mutable_data<double>()[0] = std::nan("");
    EXPECT_THAT(host_values<double>(scanned(in, shape, sequences_of(memory, {{3}}))), Each(IsNan()));
  }
}

// A text in pieces of one token, of a few and of many, beside another, is that of one pass.
TEST(StateScan, GoesOnFromAState) {
  for (const ScanShape& shape : {small, uneven}) {
    const std::vector<Tensor> in = make_inputs(memory, shape, 400);
    const Tensor whole = scanned(in, shape, sequences_of(memory, {{250}, {150}}));
    Tensor rows = random_tensor(memory, {4, shape.num_heads, shape.width, shape.state_width}, 3);
    const Tensor others = rows.clone();
    rows.rows(3, 1).fill_zero();
    rows.rows(1, 1).fill_zero();
    std::int64_t first = 0, second = 250;
    for (const auto& [of_first, of_second] : {std::pair{1, 65}, {1, 1}, {3, 0}, {20, 1}, {16, 64}, {0, 17}, {209, 2}}) {
      std::vector<Tensor> some = of_tokens(in, 0, of_first + of_second);
      for (std::size_t i = 0; i < 4; ++i) {
        some[i] = empty_like(some[i]);
        some[i].rows(0, of_first).copy_from(in[i].rows(first, of_first));
        some[i].rows(of_first, of_second).copy_from(in[i].rows(second, of_second));
      }
      const Tensor y = scanned(some, shape, sequences_of(memory, {{of_first}, {of_second}}), state_of(rows, {3, 1}));
      EXPECT_LT(relative_difference(y.rows(0, of_first), whole.rows(first, of_first)), 1e-12);
      EXPECT_LT(relative_difference(y.rows(of_first, of_second), whole.rows(second, of_second)), 1e-12);
      first += of_first;
      second += of_second;
    }
    for (const std::int64_t slot : {0, 2}) EXPECT_TRUE(bit_identical(rows.rows(slot, 1), others.rows(slot, 1)));
  }
}

// A second document goes on from no state, and leaves its own.
TEST(StateScan, AStateIsTheFirstDocuments) {
  for (const std::int64_t length : {3, 30}) {
    const std::vector<Tensor> in = make_inputs(memory, small, 2 * length);
    Tensor rows = random_tensor(memory, {1, 4, 3, 5}, 3), alone = zeros_like(rows);
    const Tensor y = scanned(in, small, sequences_of(memory, {{length, length}}), state_of(rows, {0}));
    const Tensor second =
        scanned(of_tokens(in, length, length), small, sequences_of(memory, {{length}}), state_of(alone, {0}));
    EXPECT_LT(relative_difference(y.rows(length, length), second), 1e-13);
    EXPECT_LT(relative_difference(rows, alone), 1e-13);
  }
}

TEST(StateScan, BadInput) {
  const Sequences sequences = sequences_of(memory, {{4}});
  const auto expect = [&](ScanShape shape, std::size_t input, const Shape& as, DType dtype, const char* message) {
    std::vector<Tensor> in = make_inputs(memory, small, 4, DType::F32);
    if (input < in.size()) in[input] = Tensor::zeros(memory, dtype, as);
    EXPECT_THAT([&] { scanned(in, shape, sequences); }, ThrowsMessage<Error>(HasSubstr(message)));
  };
  expect(small, 0, {4, 13}, DType::F32, "state_scan: x is float32 [4,13], expected float32 [4,12]");
  expect(small, 1, {3, 4}, DType::F32, "dt is float32 [3,4], expected float32 [4,4]");
  expect(small, 2, {4, 5}, DType::F32, "b is float32 [4,5], expected float32 [4,10]");
  expect(small, 3, {4, 10}, DType::F64, "c is float64 [4,10], expected float32 [4,10]");
  expect(small, 5, {3}, DType::F32, "a_log is float32 [3], expected float32 [4]");
  expect({.num_heads = 4, .width = 3, .num_groups = 3, .state_width = 5}, 9, {}, DType::F32, "3 groups, 4 heads");
  expect({.num_heads = 4, .width = 3, .num_groups = 2, .state_width = 5, .least_step = 1, .most_step = 0.5}, 9, {},
         DType::F32, "steps within 1 and 0.5");

  std::vector<Var> in;
  for (const Tensor& t : make_inputs(memory, small, 4)) in.push_back(leaf(t));
  Tape tape;
  const Tensor rows = Tensor::zeros(memory, DType::F64, {2, 4, 3, 5});
  EXPECT_THAT([&] { scan(tape, in, small, sequences, state_of(rows, {1})); },
              ThrowsMessage<Error>(HasSubstr("takes no gradient")));
  EXPECT_THAT([&] { scan(tape, in, small, sequences, state_of(rows, {-1})); },
              ThrowsMessage<Error>(HasSubstr("state_scan: slot -1 of sequence 0 is not one of the 2 states")));
  EXPECT_THAT(
      [&] {
        scan(tape, in, small, sequences, state_of(rows.rows(0, 1), {0, 0}));
      },
      ThrowsMessage<Error>(HasSubstr("slots are not int64 [1]")));
}

}  // namespace
}  // namespace limbeck::core
