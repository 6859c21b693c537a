// What goes along sequences that are cut over ranks is that of the sequences as a whole.
#include <gtest/gtest.h>

#include <vector>

#include "core/ops/causal_conv.h"
#include "core/ops/state_scan.h"
#include "tests/support/cut_text.h"
#include "tests/support/gradient_check.h"

namespace limbeck {
namespace {

using core::DType;
using core::MemoryPtr;
using core::Tape;
using core::Tensor;
using core::Var;
using testing::on_ranks, testing::random_tensor, testing::relative_difference, testing::rows_of, testing::Text;

/// Texts in one piece, in pieces of no token, of fewer than a filter sees, of a few, and of several chunks; documents
/// that end within pieces, and with them.
const std::vector<std::vector<std::vector<std::int32_t>>> texts = {
    {{1}}, {{7}, {}, {1, 3}}, {{3, 2, 1, 5}, {11}}, {{80}, {20, 20, 20, 20}}, {{700}, {65, 330, 1}}};

struct Ran {
  Tensor out;
  std::vector<Tensor> gradients;
};

/// Output and gradients.
template <class F>
Ran run(const std::vector<Tensor>& inputs, const Tensor& dout, const F& op) {
  Tape tape;
  std::vector<Var> in;
  for (const Tensor& input : inputs) in.push_back(core::leaf(input));
  const Var out = op(tape, in);
  core::accumulate(out.slot, dout);
  tape.run();
  Ran ran{out.value, {}};
  for (const Var& v : in) ran.gradients.push_back(v.slot->grad);
  return ran;
}

/// `cut` on every number of ranks gives what `whole` gives; the first `num_rows` inputs have a row a token.
template <class Whole, class OfRank>
void expect_the_whole(const Text& text, const std::vector<Tensor>& inputs, std::size_t num_rows, const Whole& whole,
                      const OfRank& cut) {
  const nn::Batch batch = nn::make_batch(core::Memory::cpu(1), text.columns());
  const auto of_all = [&](Tape& tape, const std::vector<Var>& in) {
    return whole(tape, in, core::Sequences{batch.sequence_offsets, batch.document});
  };
  const Tensor dout = random_tensor(core::Memory::cpu(1), inputs[0].shape(), 9);
  const Ran expected = run(inputs, dout, of_all);
  for (const int ranks : {1, 2, 3, 4}) {
    SCOPED_TRACE(fmt::format("{} tokens, {} ranks", batch.num_tokens(), ranks));
    on_ranks(ranks, [&](nn::ContextComm& comm, const MemoryPtr& memory) {
      const nn::Batch mine = nn::make_cut_batch(memory, text.columns(), {comm.rank(), comm.size()});
      std::vector<Tensor> own;
      for (std::size_t i = 0; i < inputs.size(); ++i)
        own.push_back(i < num_rows ? rows_of(inputs[i], mine) : inputs[i].in(memory));
      const auto of_rank = [&](Tape& tape, const std::vector<Var>& in) {
        return cut(tape, in, mine.ring->runs, comm);
      };
      Ran found = run(own, rows_of(dout, mine), of_rank);
      EXPECT_LE(relative_difference(found.out, rows_of(expected.out, mine), 1e-3), 1e-12);
      for (std::size_t i = 0; i < inputs.size(); ++i) {
        if (i >= num_rows) comm.sum(found.gradients[i]);
        const Tensor& right = expected.gradients[i];
        EXPECT_LE(relative_difference(found.gradients[i], i < num_rows ? rows_of(right, mine) : right, 1e-3), 1e-11)
            << i;
      }
      const Ran again = run(own, rows_of(dout, mine), of_rank);
      EXPECT_EQ(core::host_values<double>(again.gradients[0]), core::host_values<double>(found.gradients[0]));
    });
  }
}

TEST(CutCausalConv, IsThatOfTheWholeSequences) {
  const auto memory = core::Memory::cpu(1);
  for (const auto& sequences : texts)
    for (const std::int64_t taps : {1, 4, 8}) {
      const Text text(sequences);
      const std::vector<Tensor> inputs = {random_tensor(memory, {std::ssize(text.tokens), 5}, 1),
                                          random_tensor(memory, {5, taps}, 2), random_tensor(memory, {5}, 3)};
      expect_the_whole(
          text, inputs, 1,
          [](Tape& tape, const std::vector<Var>& in, const core::Sequences& all) {
            return core::causal_conv(tape, in[0], in[1], in[2], all);
          },
          [](Tape& tape, const std::vector<Var>& in, const core::SequenceRuns& runs, nn::ContextComm& comm) {
            return core::cut_causal_conv(tape, in[0], in[1], in[2], runs, comm);
          });
    }
}

/// x, dt, b, c, dt_bias, a_log and skip, of heads whose states last, and such whose do not.
std::vector<Tensor> scan_inputs(const MemoryPtr& memory, const core::ScanShape& s, std::int64_t tokens) {
  std::vector<Tensor> in = {random_tensor(memory, {tokens, s.num_heads * s.width}, 1),
                            random_tensor(memory, {tokens, s.num_heads}, 2),
                            random_tensor(memory, {tokens, s.num_groups * s.state_width}, 3),
                            random_tensor(memory, {tokens, s.num_groups * s.state_width}, 4),
                            random_tensor(memory, {s.num_heads}, 5),
                            random_tensor(memory, {s.num_heads}, 6),
                            random_tensor(memory, {s.num_heads}, 7)};
  for (std::int64_t h = 0; h < s.num_heads; h += 2) in[5].mutable_data<double>()[h] = -6;
  return in;
}

Var scan(Tape& tape, const std::vector<Var>& in, const core::ScanShape& shape, const core::Sequences& all) {
  return core::state_scan(tape, in[0], in[1], in[2], in[3], {in[4], in[5], in[6]}, shape, all);
}
Var cut_scan(Tape& tape, const std::vector<Var>& in, const core::ScanShape& shape, const core::SequenceRuns& runs,
             nn::ContextComm& comm) {
  return core::cut_state_scan(tape, in[0], in[1], in[2], in[3], {in[4], in[5], in[6]}, shape, runs, comm);
}

TEST(CutStateScan, IsThatOfTheWholeSequences) {
  constexpr core::ScanShape small{.num_heads = 4, .width = 3, .num_groups = 2, .state_width = 5};
  constexpr core::ScanShape uneven{
      .num_heads = 3, .width = 34, .num_groups = 1, .state_width = 7, .least_step = 0.1, .most_step = 2};
  for (const auto& sequences : texts)
    for (const core::ScanShape& shape : {small, uneven}) {
      const Text text(sequences);
      expect_the_whole(
          text, scan_inputs(core::Memory::cpu(1), shape, std::ssize(text.tokens)), 4,
          [&](Tape& tape, const std::vector<Var>& in, const core::Sequences& all) {
            return scan(tape, in, shape, all);
          },
          [&](Tape& tape, const std::vector<Var>& in, const core::SequenceRuns& runs, nn::ContextComm& comm) {
            return cut_scan(tape, in, shape, runs, comm);
          });
    }
}

// Beside bfloat16 states, and what goes between ranks, are float32; held against float64 of the same inputs.
TEST(CutStateScan, RoundsLittleInBfloat16) {
  constexpr core::ScanShape shape{.num_heads = 2, .width = 4, .num_groups = 1, .state_width = 6};
  const auto memory = core::Memory::cpu(1);
  const Text text({{150, 50}});
  const nn::Batch whole = nn::make_batch(memory, text.columns());
  std::vector<Tensor> inputs, wide;
  for (const Tensor& input : scan_inputs(memory, shape, 200)) {
    inputs.push_back(input.to(DType::F32).to(inputs.size() < 4 ? DType::BF16 : DType::F32));
    wide.push_back(inputs.back().to(DType::F64));
  }
  const auto constants = [](const std::vector<Tensor>& of) {
    std::vector<Var> vars;
    for (const Tensor& t : of) vars.push_back(core::constant(t));
    return vars;
  };
  Tape off(Tape::Mode::Off);
  const Tensor expected = scan(off, constants(wide), shape, {whole.sequence_offsets, whole.document}).value;
  on_ranks(2, [&](nn::ContextComm& comm, const MemoryPtr& own_memory) {
    const nn::Batch mine = nn::make_cut_batch(own_memory, text.columns(), {comm.rank(), comm.size()});
    std::vector<Tensor> own;
    for (std::size_t i = 0; i < inputs.size(); ++i)
      own.push_back(i < 4 ? rows_of(inputs[i], mine) : inputs[i].in(own_memory));
    Tape tape(Tape::Mode::Off);
    const Tensor out = cut_scan(tape, constants(own), shape, mine.ring->runs, comm).value;
    EXPECT_LE(relative_difference(out.to(DType::F64), rows_of(expected, mine)), 0x1p-8);
  });
}

}  // namespace
}  // namespace limbeck
