// The head's gradient of the hidden states over ranks that have parts of the vocabulary: of all tokens on each rank,
// or, under sequence parallelism, of each rank's share.
#include <gtest/gtest.h>

#include "core/ops/head_loss.h"
#include "core/ops/tensor_exchange.h"
#include "core/slice.h"
#include "optim/objectives.h"
#include "parallel/axes/communicators.h"
#include "parallel/comm/engine.h"
#include "tests/support/gradient_check.h"
#include "tests/support/thread_ranks.h"

namespace limbeck::launch {
namespace {

using core::Tensor;
using core::Var;

constexpr std::int64_t width = 3, vocabulary = 5;

struct Given {
  Tensor gradient;
  std::int64_t bytes = 0;  // that this rank handed out in the backward
};

/// The gradient of the stream behind the last norm: [tokens,C], or this rank's rows of it.
Given gradient_of_stream(const std::shared_ptr<nn::TensorComm>& ranks, parallel::CommTally* tally, std::int64_t tokens,
                         bool is_share) {
  const auto memory = core::Memory::cpu(1);
  const Tensor hidden = testing::random_tensor(memory, {tokens, width}, 1),
               head = testing::random_tensor(memory, {vocabulary, width}, 2);
  const core::Slice rows = core::slice_of(vocabulary, ranks->rank(), ranks->size());
  std::vector<std::int32_t> targets;
  for (std::int64_t t = 0; t < tokens; ++t) targets.push_back(static_cast<std::int32_t>(t % vocabulary));
  const Var stream = core::leaf(is_share ? core::scatter(hidden, *ranks).clone() : hidden);
  core::LossAccumulator losses(memory);
  core::Tape tape;
  const Var entered = is_share ? core::enter_sequence(tape, stream, tokens, *ranks) : core::enter(tape, stream, *ranks);
  const Var loss =
      core::head_loss(tape, entered, core::leaf(head.rows(rows.first, rows.count)),
                      Tensor::from<std::int32_t>(memory, {tokens}, targets), optim::LanguageModelling(), nullptr,
                      *ranks, {.weight = 0.25, .chunk = 4, .vocabulary_offset = rows.first}, losses);
  if (tally != nullptr) tally->take();
  tape.backward(loss);
  Given given{core::gradient(stream.slot, stream.value)};
  if (tally != nullptr) given.bytes = tally->take().at(parallel::CommAxis::World, parallel::Traffic::BytesInside);
  return given;
}

TEST(HeadShare, IsOneRanksAndCostsHalfOfAnAllReduce) {
  for (const int size : {1, 2, 3})
    for (const std::int64_t tokens : {0, 1, 5, 12})
      testing::run_ranks(size, [&](testing::RankWorld& world) {
        const Tensor alone =
            gradient_of_stream(nn::single_communicators().tensor, nullptr, tokens, /*is_share=*/false).gradient;
        const auto ranks = parallel::make_tensor_comm(world.comm);
        parallel::CommTally& tally = world.comm->engine().tally();
        const Given whole = gradient_of_stream(ranks, &tally, tokens, false),
                    share = gradient_of_stream(ranks, &tally, tokens, true);
        const core::Slice mine = core::slice_of(tokens, world.rank, world.size);
        ASSERT_EQ(whole.gradient.shape(), (core::Shape{tokens, width}));
        ASSERT_EQ(share.gradient.shape(), (core::Shape{mine.count, width}));
        for (std::int64_t i = 0; i < alone.numel(); ++i)
          EXPECT_NEAR(whole.gradient.data<double>()[i], alone.data<double>()[i], 1e-14);
        for (std::int64_t i = 0; i < share.gradient.numel(); ++i)  // the very bits: sums are formed in rank order
          EXPECT_EQ(share.gradient.data<double>()[i], whole.gradient.data<double>()[mine.first * width + i]);
        if (tokens == 12) {
          const std::int64_t others = 8 * tokens * width * (size - 1) / size;
          EXPECT_EQ(whole.bytes, 2 * others);
          EXPECT_EQ(share.bytes, others);
        }
      });
}

}  // namespace
}  // namespace limbeck::launch
