// A teacher in a layout of its own over the student's ranks teaches what one beside the student does.
#include "launch/run/relaid_teacher.h"

#include <gmock/gmock.h>

#include <cmath>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "tests/support/matched_steps.h"
#include "tests/support/tensors.h"
#include "tests/support/wrapped_comm.h"

namespace limbeck {
namespace {

using testing::GoldenModel;

/// Calls then(rank, teacher) on each rank of a student's layout, of which the last stage's have the head.
template <class Then>
void with_relaid_teacher(int ranks, const char* student, const char* teacher, bool is_sharded, const Then& then) {
  testing::run_ranks(ranks, [&](testing::RankWorld& world) {
    testing::with_relaid_teacher(world.comm, student, teacher, is_sharded, then);
  });
}

TEST(RelaidTeacher, TeachesAsBesideTheStudent) {
  struct Case {
    int ranks;
    const char* student;
    const char* teacher;
    std::int64_t micro_batches = 1;
    bool is_sharded = false;  // the teacher's experts
  };
  const testing::MatchedSteps expected = testing::matched_steps_of_one_rank();
  for (const Case& c :
       {Case{1, "dp1", "dp1", 2}, Case{2, "dp2", "tp2"}, Case{2, "tp2", "dp2", 3}, Case{4, "dp4", "pp2tp2"},
        Case{4, "ep4", "pp2", 2}, Case{2, "pp2", "tp2", 3}, Case{4, "pp2dp2", "dp2tp2", 2}, Case{2, "cp2", "pp2"},
        Case{3, "tp3", "cp3"}, Case{4, "cp2tp2", "tp2cp2", 2}, Case{2, "ep2", "tp2", 2}, Case{4, "dp4", "ep4", 1, true},
        Case{4, "tp2", "pp2ep2", 2, true}, Case{3, "dp3", "pp3", 2}, Case{4, "pp2cp2", "pp2tp2", 2}}) {
    SCOPED_TRACE(fmt::format("{} taught by {}", c.student, c.teacher));
    with_relaid_teacher(c.ranks, c.student, c.teacher, c.is_sharded,
                        [&](launch::Rank& rank, launch::RelaidTeacher& relaid) {
                          testing::expect_matched_steps(rank, {.relaid = &relaid}, c.micro_batches, expected);
                        });
  }
}

// Rows are there where the student's head is, and nowhere else; those of a tensor group are the same on all of it.
TEST(RelaidTeacher, AnswersTheLastStage) {
  const launch::StepText text(GoldenModel("matching.h5").samples());
  with_relaid_teacher(4, "pp2tp2", "dp2pp2", false, [&](launch::Rank& rank, launch::RelaidTeacher& relaid) {
    relaid.want_layers({1});
    const auto answers = relaid.read(text, 2);
    ASSERT_EQ(answers.size(), rank.is_last_stage() ? 2U : 0U);
    for (const launch::RelaidTeacher::Answer& answer : answers) {
      ASSERT_EQ(answer.layers.size(), 1U);
      EXPECT_EQ(answer.layers.at(1).shape(), answer.hidden.shape());
      core::Tensor sum = answer.hidden.clone();
      rank.mesh().tp().all_reduce(sum, core::Reduce::Sum);
      const std::vector<double> all = testing::values_of(sum), mine = testing::values_of(answer.hidden);
      for (std::size_t i = 0; i < all.size(); ++i) ASSERT_EQ(all[i], 2 * mine[i]) << i;
    }
  });
}

/// Counts streams between stages, and those that begin when rows were given already.
class StreamsComm final : public testing::WrappedComm {
 public:
  struct Seen {
    int gives = 0, streams = 0, streams_behind = 0;
  };

  StreamsComm(World group, std::shared_ptr<Seen> seen) : WrappedComm(std::move(group)), seen_(std::move(seen)) {}

  CommHandle send_async(Tensor x, int to) override {
    note_stream();
    return WrappedComm::send_async(std::move(x), to);
  }
  CommHandle receive_async(Tensor x, int from) override {
    note_stream();
    return WrappedComm::receive_async(std::move(x), from);
  }
  CommHandle all_to_all_v_async(Tensor send, std::span<const std::int64_t> send_rows, Tensor receive,
                                std::span<const std::int64_t> receive_rows) override {
    if (name() == "teacher") ++seen_->gives;
    return WrappedComm::all_to_all_v_async(std::move(send), send_rows, std::move(receive), receive_rows);
  }

 private:
  void note_stream() {
    ++seen_->streams;
    if (seen_->gives > 0) ++seen_->streams_behind;
  }
  World around(World group) const override { return std::make_shared<StreamsComm>(std::move(group), seen_); }

  std::shared_ptr<Seen> seen_;
};

// NCCL has to have the operations of several groups in one order on all ranks; a stage that gave rows between two of
// its streams, which the next stage takes both before it gives any, would wait for that one, and that one for it.
TEST(RelaidTeacher, BeginsAllStreamsBeforeRowsAreGiven) {
  const launch::StepText text(GoldenModel("matching.h5").samples());
  testing::run_ranks(2, [&](testing::RankWorld& world) {
    const auto seen = std::make_shared<StreamsComm::Seen>();
    testing::with_relaid_teacher(std::make_shared<StreamsComm>(world.comm, seen), "dp2", "pp2", /*is_sharded=*/false,
                                 [&](launch::Rank&, launch::RelaidTeacher& relaid) { relaid.read(text, 2); });
    EXPECT_GE(seen->gives, 3);
    EXPECT_EQ(seen->streams, seen->gives);  // of a pass one stream, and the hidden states of one layer, the last
    EXPECT_EQ(seen->streams_behind, 0);
  });
}

// One rank reads what the student's two read in two passes of their size, or in more, so that stages wait less.
TEST(RelaidTeacher, TakesNoPassTooManyWhereEachBringsItsLayers) {
  with_relaid_teacher(2, "dp2", "pp2", false, [](launch::Rank&, launch::RelaidTeacher& relaid) {
    EXPECT_EQ(relaid.num_passes(64, 1, /*is_brought=*/false), 4);
    EXPECT_EQ(relaid.num_passes(64, 1, /*is_brought=*/true), 2);
    EXPECT_EQ(relaid.num_passes(64, 3, /*is_brought=*/false), 6);
    EXPECT_EQ(relaid.num_passes(64, 3, /*is_brought=*/true), 6);
    EXPECT_EQ(relaid.num_passes(1, 3, /*is_brought=*/true), 1);
  });
}

// The last stage's norm gives what is not finite; the student's passes, behind all of this, are numbered from 0.
TEST(RelaidTeacher, IsWatchedBeforeTheStudent) {
  const launch::StepText text(GoldenModel("matching.h5").samples());
  with_relaid_teacher(2, "dp2", "pp2", false, [&](launch::Rank& rank, launch::RelaidTeacher& relaid) {
    for (const core::Parameter* p : relaid.model()->parameters()) {
      if (p->name != "norm.weight") continue;
      core::Tensor values = p->value;
      values.copy_from(testing::tensor<double>(
          rank.memory(), values.shape(), std::vector<double>(static_cast<std::size_t>(values.numel()), std::nan(""))));
    }
    core::FiniteWatch watch;
    relaid.read(text, 2, &watch);
    ASSERT_EQ(watch.first().has_value(), !rank.is_first());
    if (rank.is_first()) return;
    EXPECT_EQ(watch.first()->pass, -5);  // of 3 passes through 2 stages: the first, in the second stage
    EXPECT_THAT(watch.first()->what, ::testing::HasSubstr("in the teacher's pass 0"));
  });
}

TEST(RelaidTeacher, IsTheOneThatWasMeasured) {
  EXPECT_THAT(
      [] {
        with_relaid_teacher(1, "dp1", "dp1", false, [](launch::Rank&, launch::RelaidTeacher& relaid) {
          launch::LoadedTeacher other;
          other.fingerprint = "ffffffffffffffff";
          relaid.take(std::move(other), 8);
        });
      },
      ::testing::ThrowsMessage<core::Error>(::testing::HasSubstr(
          "the teacher has the fingerprint ffffffffffffffff under parallel.teacher_layout, 0011")));
}

}  // namespace
}  // namespace limbeck
