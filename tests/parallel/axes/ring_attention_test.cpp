// Attention over sequences that are cut over ranks is that of the sequences as a whole.
#include "core/ops/ring_attention.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/support/cut_text.h"
#include "tests/support/gradient_check.h"

namespace limbeck {
namespace {

using core::AttentionShape;
using core::DType;
using core::MemoryPtr;
using core::Tape;
using core::Tensor;
using core::Var;
using testing::on_ranks, testing::rows_of, testing::Text;
using testing::random_tensor;
using testing::relative_difference;

struct Ran {
  Tensor out, dq, dk, dv, dsinks;
};

/// Output and gradients, of what `attend` makes of q, k, v and sinks.
template <class F>
Ran run(const std::vector<Tensor>& inputs, const Tensor& dout, const F& attend) {
  Tape tape;
  std::vector<Var> in;
  for (const Tensor& input : inputs) in.push_back(core::leaf(input));
  const Var out = attend(tape, in);
  core::accumulate(out.slot, dout);
  tape.run();
  return {out.value, in[0].slot->grad, in[1].slot->grad, in[2].slot->grad, in[3].slot->grad};
}

/// Counts rows that go to other ranks.
class Counting final : public nn::ContextComm {
 public:
  explicit Counting(nn::ContextComm& comm) : comm_(comm) {}
  std::int64_t size() const override { return comm_.size(); }
  std::int64_t rank() const override { return comm_.rank(); }
  void sum(Tensor& x) override { comm_.sum(x); }
  Tensor gather(const Tensor& rows) override { return comm_.gather(rows); }
  core::CommHandle start_pass(std::int64_t by, const Tensor& rows, const Tensor& arriving) override {
    num_rows += rows.shape()[0];
    ++num_calls;
    return comm_.start_pass(by, rows, arriving);
  }
  std::int64_t num_rows = 0, num_calls = 0;

 private:
  nn::ContextComm& comm_;
};

constexpr AttentionShape small{.num_heads = 4, .num_kv_heads = 2, .width = 3, .value_width = 5, .scale = 0.7};

TEST(RingAttention, IsThatOfTheWholeSequences) {
  const auto memory = core::Memory::cpu(1);
  for (const auto& sequences : std::vector<std::vector<std::vector<std::int32_t>>>{
           {{1}}, {{300}}, {{7}, {}, {1, 3}}, {{65, 130, 1}, {64}, {129, 2, 90}}}) {
    const Text text(sequences);
    const nn::Batch whole = nn::make_batch(memory, text.columns());
    const std::int64_t tokens = whole.num_tokens();
    const std::vector<Tensor> inputs = {random_tensor(memory, {tokens, 12}, 1), random_tensor(memory, {tokens, 6}, 2),
                                        random_tensor(memory, {tokens, 10}, 3), random_tensor(memory, {4}, 4)};
    const Tensor dout = random_tensor(memory, {tokens, 20}, 5);
    for (const std::int64_t window : {0, 1, 40, 111}) {
      AttentionShape shape = small;
      shape.window = window;
      const Ran expected = run(inputs, dout, [&](Tape& tape, const std::vector<Var>& in) {
        return core::attention(tape, in[0], in[1], in[2], shape, whole.attention_layout(), in[3]);
      });
      for (const int ranks : {1, 2, 3, 4}) {
        SCOPED_TRACE(fmt::format("{} tokens, window {}, {} ranks", tokens, window, ranks));
        on_ranks(ranks, [&](nn::ContextComm& comm, const MemoryPtr& own_memory) {
          const nn::Batch mine = nn::make_cut_batch(own_memory, text.columns(), {comm.rank(), comm.size()});
          std::vector<Tensor> own;
          for (std::size_t i = 0; i < 3; ++i) own.push_back(rows_of(inputs[i], mine));
          own.push_back(inputs[3].in(own_memory));
          const auto attend = [&](Tape& tape, const std::vector<Var>& in) {
            return core::ring_attention(tape, in[0], in[1], in[2], shape, mine.ring, comm, in[3]);
          };
          Ran found = run(own, rows_of(dout, mine), attend);
          EXPECT_LE(relative_difference(found.out, rows_of(expected.out, mine)), 1e-13);
          EXPECT_LE(relative_difference(found.dq, rows_of(expected.dq, mine)), 1e-12);
          EXPECT_LE(relative_difference(found.dk, rows_of(expected.dk, mine)), 1e-12);
          EXPECT_LE(relative_difference(found.dv, rows_of(expected.dv, mine)), 1e-12);
          const Ran again = run(own, rows_of(dout, mine), attend);
          EXPECT_EQ(core::host_values<double>(again.dk), core::host_values<double>(found.dk));
          comm.sum(found.dsinks);
          EXPECT_LE(relative_difference(found.dsinks, expected.dsinks), 1e-12);
        });
      }
    }
  }
}

// In bfloat16 each rank's part is rounded before it is merged; held against float32 of the same inputs.
TEST(RingAttention, RoundsLittleInBfloat16) {
  const auto memory = core::Memory::cpu(1);
  const Text text({{150, 50}});
  const nn::Batch whole = nn::make_batch(memory, text.columns());
  std::vector<Tensor> inputs, wide;
  for (const std::int64_t width : {12, 6, 10})
    inputs.push_back(random_tensor(memory, {200, width}, static_cast<int>(width)).to(DType::F32).to(DType::BF16));
  for (const Tensor& input : inputs) wide.push_back(input.to(DType::F32));
  Tape off(Tape::Mode::Off);
  const auto constants = [](const std::vector<Tensor>& of) {
    return std::array{core::constant(of[0]), core::constant(of[1]), core::constant(of[2])};
  };
  const auto all = constants(wide);
  const Tensor expected = core::attention(off, all[0], all[1], all[2], small, whole.attention_layout()).value;
  on_ranks(2, [&](nn::ContextComm& comm, const MemoryPtr& own_memory) {
    const nn::Batch mine = nn::make_cut_batch(own_memory, text.columns(), {comm.rank(), comm.size()});
    std::vector<Tensor> own;
    for (const Tensor& input : inputs) own.push_back(rows_of(input, mine));
    Tape tape(Tape::Mode::Off);
    const auto in = constants(own);
    const Tensor out = core::ring_attention(tape, in[0], in[1], in[2], small, mine.ring, comm).value;
    EXPECT_LE(relative_difference(out.to(DType::F32), rows_of(expected, mine)), 1e-2);
  });
}

// Keys that no query of a rank sees stay where they are, and where none moves nobody waits.
TEST(RingAttention, PassesOnWhatIsSeen) {
  const auto memory = core::Memory::cpu(1);
  const auto rows_sent = [&](const std::vector<std::vector<std::int32_t>>& sequences, std::int64_t window, int ranks) {
    std::vector<std::int64_t> rows(static_cast<std::size_t>(ranks)), calls(rows);
    const Text text(sequences);
    on_ranks(ranks, [&](nn::ContextComm& comm, const MemoryPtr& own_memory) {
      Counting counting(comm);
      const nn::Batch mine = nn::make_cut_batch(own_memory, text.columns(), {comm.rank(), comm.size()});
      AttentionShape shape = small;
      shape.window = window;
      const auto input = [&](std::int64_t width) {
        return core::constant(Tensor::zeros(own_memory, DType::F64, {mine.num_tokens(), width}));
      };
      Tape off(Tape::Mode::Off);
      core::ring_attention(off, input(12), input(6), input(10), shape, mine.ring, counting);
      rows[static_cast<std::size_t>(comm.rank())] = counting.num_rows;
      calls[static_cast<std::size_t>(comm.rank())] = counting.num_calls;
    });
    for (const std::int64_t n : calls) EXPECT_EQ(n, calls[0]);
    return rows;
  };
  // Pieces of 10 tokens, of keys and of values: everybody sees some of each of the others'.
  EXPECT_EQ(rows_sent({{80}}, 0, 4), (std::vector<std::int64_t>(4, 2 * 3 * 20)));
  // A window within a piece reaches into the one before alone: pieces 0 to 7 are of ranks 0 1 2 3 3 2 1 0.
  EXPECT_EQ(rows_sent({{80}}, 5, 4), (std::vector<std::int64_t>{40, 80, 80, 40}));
  // Documents that end where pieces do.
  EXPECT_EQ(rows_sent({std::vector<std::int32_t>(8, 10)}, 0, 4), (std::vector<std::int64_t>(4, 0)));
  // One that two ranks share.
  EXPECT_EQ(rows_sent({{20, 10, 10, 10, 10, 10, 10}}, 0, 4), (std::vector<std::int64_t>{40, 0, 0, 0}));
}

// Causal attention sees 1 + 2 + ... + S keys; each rank's queries see nearly as many of them.
TEST(RingAttention, IsAsMuchWorkOnEachRank) {
  const std::int64_t length = 1003, ranks = 4;
  for (std::int64_t r = 0; r < ranks; ++r) {
    std::int64_t seen = 0, tokens = 0;
    for (const core::Slice& piece : nn::pieces_of(length, {r, ranks}))
      for (std::int64_t i = 0; i < piece.count; ++i, ++tokens) seen += piece.first + i + 1;
    EXPECT_NEAR(static_cast<double>(tokens), static_cast<double>(length) / ranks, 2);
    EXPECT_NEAR(static_cast<double>(seen), static_cast<double>(length * (length + 1)) / 2 / ranks, 0.01 * 125000);
  }
}

// Tokens, targets further on and contexts are those that the whole sequence gives.
TEST(CutBatch, TakesWhatTheWholeGives) {
  const auto memory = core::Memory::cpu(1);
  const Text text({{7, 4}, {2}, {13}});
  nn::BatchColumns columns = text.columns();
  columns.num_ahead = 2;
  const nn::Batch whole = nn::make_batch(memory, columns);
  std::vector<bool> taken(text.tokens.size());
  for (std::int64_t r = 0; r < 3; ++r) {
    const nn::Batch mine = nn::make_cut_batch(memory, columns, {r, 3});
    EXPECT_EQ(mine.num_sequences(), 3);
    EXPECT_EQ(mine.max_position, whole.max_position);
    for (std::int64_t i = 0; i < mine.num_tokens(); ++i) {
      const std::int64_t at = mine.global_index.data<std::int64_t>()[i];
      EXPECT_FALSE(taken[static_cast<std::size_t>(at)]);
      taken[static_cast<std::size_t>(at)] = true;
      for (const auto& [own, of_whole] : {std::pair(mine.tokens, whole.tokens),
                                          {mine.position, whole.position},
                                          {mine.document, whole.document},
                                          {mine.sequence, whole.sequence},
                                          {mine.context, whole.context},
                                          {mine.ahead[0].tokens, whole.ahead[0].tokens},
                                          {mine.ahead[1].targets, whole.ahead[1].targets}})
        EXPECT_EQ(own.data<std::int32_t>()[i], of_whole.data<std::int32_t>()[at]);
    }
  }
  EXPECT_EQ(std::count(taken.begin(), taken.end(), true), std::ssize(taken));
  EXPECT_TRUE(nn::make_cut_batch(memory, columns, {0, 3}).ring->runs.slots.defined());
  EXPECT_FALSE(nn::make_cut_batch(memory, columns, {0, 3}, /*with_runs=*/false).ring->runs.slots.defined());
}

}  // namespace
}  // namespace limbeck
