// A teacher on ranks of its own teaches what one beside the student does, under any layouts of the two.
#include "launch/run/teacher_ranks.h"

#include <gmock/gmock.h>

#include <thread>

#include "launch/run/teacher_service.h"
#include "tests/support/golden_model.h"
#include "tests/support/matched_steps.h"
#include "tests/support/tensors.h"
#include "tests/support/thread_ranks.h"

namespace limbeck {
namespace {

using core::DType;
using testing::GoldenModel;

constexpr const char* fingerprint = "00112233aabbccdd";

struct Case {
  const char* student;
  int student_ranks;
  const char* teacher;
  int teacher_ranks;
  std::int64_t micro_batches = 1;
  bool is_sharded = false;  // the teacher's experts
};

TEST(TeacherRanks, TeachAsBesideTheStudent) {
  const GoldenModel golden("matching.h5");
  const testing::MatchedSteps expected = testing::matched_steps_of_one_rank();
  for (const Case& c : {Case{"dp1", 1, "dp1", 1},
                        Case{"dp1", 1, "tp2", 2},
                        Case{"dp2", 2, "dp1", 1, 2},
                        Case{"dp3", 3, "dp2", 2},
                        Case{"tp2", 2, "dp1", 1, 3},
                        Case{"dp1", 1, "dp2", 2},
                        Case{"tp2ep2", 4, "tp2", 4},
                        Case{"ep2", 2, "tp3", 3},
                        Case{"tp3", 3, "tp2", 2},
                        Case{"dp3", 3, "ep2", 2, 2, true},
                        Case{"dp1", 1, "ep4", 4, 1, true},
                        Case{"dp1", 1, "pp2", 2, 3},
                        Case{"dp2", 2, "pp3", 3, 2},
                        Case{"tp2", 2, "pp2tp2", 4},
                        Case{"dp1", 1, "pp2ep2", 4, 2, true},
                        Case{"cp2", 2, "dp1", 1, 2},
                        Case{"cp2tp2", 4, "dp2tp2", 4},
                        Case{"cp3", 3, "pp2", 2},
                        Case{"dp1", 1, "cp2", 2},
                        Case{"cp2", 2, "cp3", 3, 2},
                        Case{"dp3", 3, "cp2tp2", 4},
                        Case{"tp2", 2, "pp2cp2", 4, 2},
                        Case{"cp2tp2", 4, "cp2ep4", 4, 1, true}})
    for (const bool asks_ahead : {false, true}) {
      SCOPED_TRACE(fmt::format("{} taught by {}, {}", c.student, c.teacher, asks_ahead));
      testing::run_ranks(c.student_ranks + c.teacher_ranks, [&](testing::RankWorld& world) {
        launch::TeacherRanks ranks(world.comm, c.teacher_ranks, parallel::parse_layout(c.student),
                                   parallel::parse_layout(c.teacher));
        EXPECT_EQ(ranks.is_teacher(), world.rank >= c.student_ranks);
        launch::Rank rank(ranks.side(), ranks.is_teacher() ? c.teacher : c.student, 1);
        const nn::ModelConfig config = golden.config("/teacher");
        nn::ModelOptions options =
            c.is_sharded && ranks.is_teacher() ? rank.frozen_shard(DType::F64) : rank.frozen_copy(DType::F64);
        if (ranks.is_teacher()) options = launch::on_stage(rank, options, config, golden.samples().sequence_length);
        auto model = std::make_unique<nn::Transformer>(config, options);
        model->load(golden.parameters("/teacher/parameters"));
        if (ranks.is_teacher()) {
          launch::LoadedTeacher teacher;
          teacher.model = std::move(model);
          teacher.fingerprint = fingerprint;
          return launch::answer_with(rank, ranks, teacher, golden.samples().sequence_length);
        }
        {
          launch::RemoteTeacher remote(
              ranks, rank.memory(),
              {.width = model->config().width, .hidden = DType::F64, .stream = DType::F64, .fingerprint = fingerprint});
          remote.keep_head(model->head().value, model->head_bias().value);
          testing::expect_matched_steps(rank, {.remote = &remote, .asks_ahead = asks_ahead}, c.micro_batches, expected);
        }
        ranks.dismiss();
      });
    }
}

// 12 of a student in two stages of three data-parallel ranks, of two ranks along tp each, and two replicas.
TEST(TeacherRanks, OfAStudentInStagesTheLastOneAsks) {
  testing::run_ranks(16, [](testing::RankWorld& world) {
    const launch::TeacherRanks ranks(world.comm, 4, parallel::parse_layout("pp2dp3tp2"),
                                     parallel::parse_layout("dp2tp2"));
    EXPECT_EQ(ranks.num_askers(), 3);
    if (ranks.is_teacher()) {
      for (int d = 0; d < 3; ++d) EXPECT_EQ(ranks.rank_of_asker(d), 6 + 2 * d);
      EXPECT_EQ(ranks.answered_ranks(1), std::vector{8 + world.rank % 2});
      return;
    }
    EXPECT_EQ(ranks.takes_answers(), world.rank >= 6);
    EXPECT_EQ(ranks.asks(), world.rank >= 6 && world.rank % 2 == 0);
    if (!ranks.takes_answers()) return;
    const int replica = (world.rank - 6) / 2 % 2;
    EXPECT_EQ(ranks.replica(), (std::vector{12 + 2 * replica, 13 + 2 * replica}));
    EXPECT_THAT(ranks.answerers(), ::testing::ElementsAre(12 + 2 * replica + world.rank % 2));
  });
}

// Of a teacher in two stages of two replicas of two ranks each all hear what is asked, and the last stage's answer; of
// a student whose sequences are cut over two ranks of two along tp one rank asks for four, each of which takes its
// tokens.
TEST(TeacherRanks, OfATeacherInStagesTheLastOneAnswers) {
  testing::run_ranks(16, [](testing::RankWorld& world) {
    const launch::TeacherRanks ranks(world.comm, 8, parallel::parse_layout("dp2cp2tp2"),
                                     parallel::parse_layout("pp2dp2tp2"));
    EXPECT_EQ(ranks.num_askers(), 2);
    if (ranks.is_teacher()) {
      EXPECT_EQ(ranks.num_replicas(), 2);
      EXPECT_EQ(ranks.replica_number(), world.rank / 2 % 2);
      EXPECT_EQ(ranks.rank_of_asker(1), 4);
      if (world.rank < 12)
        EXPECT_THAT(ranks.answered_ranks(1), ::testing::IsEmpty());
      else
        EXPECT_THAT(ranks.answered_ranks(1), ::testing::ElementsAre(4 + world.rank % 2, 6 + world.rank % 2));
      return;
    }
    EXPECT_EQ(ranks.asks(), world.rank % 4 == 0);
    EXPECT_EQ(ranks.place_of(world.rank).rank, world.rank / 2 % 2);
    EXPECT_EQ(ranks.place_of(world.rank).size, 2);
    const int first = 8 + world.rank / 4 * 2;
    EXPECT_THAT(ranks.replica(), ::testing::ElementsAre(first, first + 1, first + 4, first + 5));
    EXPECT_THAT(ranks.answerers(), ::testing::ElementsAre(first + 4 + world.rank % 2));
  });
}

// Of two replicas of two parts of each sequence and two ranks along tp the one is asked by the first and the third of
// three ranks, which have whole sequences and are answered with the one part and the other.
TEST(TeacherRanks, OfATeacherWhoseSequencesAreCutEachPartAnswers) {
  testing::run_ranks(11, [](testing::RankWorld& world) {
    const launch::TeacherRanks ranks(world.comm, 8, parallel::parse_layout("dp3"), parallel::parse_layout("dp2cp2tp2"));
    for (int r = 0; r < 11; ++r) {
      EXPECT_EQ(ranks.place_of(r).size, r < 3 ? 1 : 2);
      EXPECT_EQ(ranks.place_of(r).rank, r < 3 ? 0 : (r - 3) / 2 % 2);
    }
    EXPECT_EQ(ranks.num_replicas(), 2);
    if (ranks.is_teacher()) {
      EXPECT_EQ(ranks.replica_number(), (world.rank - 3) / 4);
      if ((world.rank - 3) % 2 == 0)
        EXPECT_THAT(ranks.answered_ranks(2), ::testing::ElementsAre(2));
      else
        EXPECT_THAT(ranks.answered_ranks(2), ::testing::IsEmpty());
      return;
    }
    const int first = world.rank == 1 ? 7 : 3;
    EXPECT_THAT(ranks.replica(), ::testing::ElementsAre(first, first + 1, first + 2, first + 3));
    EXPECT_THAT(ranks.answerers(), ::testing::ElementsAre(first, first + 2));
  });
}

/// Two ranks: the student's does `ask`, the other teaches with a fingerprint.
void beside_teacher(const std::string& theirs, const std::function<void(launch::RemoteTeacher&)>& ask,
                    parallel::Deadline deadline = std::chrono::seconds(60)) {
  const GoldenModel golden("matching.h5");
  testing::run_ranks(
      2,
      [&](testing::RankWorld& world) {
        const parallel::Layout alone = parallel::parse_layout("dp1");
        launch::TeacherRanks ranks(world.comm, 1, alone, alone);
        launch::Rank rank(ranks.side(), "dp1", 1);
        if (ranks.is_teacher()) {
          launch::LoadedTeacher teacher;
          teacher.model = std::make_unique<nn::Transformer>(golden.config("/teacher"), rank.frozen_copy(DType::F64));
          teacher.model->load(golden.parameters("/teacher/parameters"));
          teacher.fingerprint = theirs;
          return launch::answer_with(rank, ranks, teacher, golden.samples().sequence_length);
        }
        {
          launch::RemoteTeacher remote(ranks, rank.memory(),
                                       {.width = golden.config("/teacher").width,
                                        .hidden = DType::F64,
                                        .stream = DType::F64,
                                        .fingerprint = fingerprint});
          ask(remote);
        }
        ranks.dismiss();
      },
      deadline);
}

TEST(TeacherRanks, OfAnotherModelAreFound) {
  EXPECT_THAT([] { beside_teacher("ffffffffffffffff", [](launch::RemoteTeacher&) { FAIL(); }); },
              ::testing::ThrowsMessage<core::Error>(::testing::HasSubstr(
                  "the teacher of rank 1 has the fingerprint ffffffffffffffff, that of the student's ranks 0011")));
}

// An error of either side ends both, with its words.
TEST(TeacherRanks, StopWithTheStudent) {
  EXPECT_THAT(
      [] {
        beside_teacher(fingerprint, [](launch::RemoteTeacher& remote) {
          remote.ask({GoldenModel("matching.h5").samples()});
          core::fail("the student cannot go on");
        });
      },
      ::testing::ThrowsMessage<core::Error>(::testing::HasSubstr("the student cannot go on")));
}

// What was asked for and is not wanted any more does not stand in the way of what is; nor does nothing at all.
TEST(TeacherRanks, AnswerWhatIsTaken) {
  const launch::StepText text(GoldenModel("matching.h5").samples());
  const data::TokenBatch one = text.fetch(0, 1), two = text.fetch(1, 1), none = text.fetch(0, 0);
  beside_teacher(fingerprint, [&](launch::RemoteTeacher& remote) {
    const core::Tensor first = remote.take(one).hidden, second = remote.take(two).hidden;
    EXPECT_NE(testing::values_of(first), testing::values_of(second));
    remote.ask({one, none, one});
    EXPECT_TRUE(remote.has_asked());
    EXPECT_EQ(testing::values_of(remote.take(one).hidden), testing::values_of(first));
    EXPECT_EQ(remote.take(none).hidden.shape()[0], 0);
    remote.want_layers({1});
    EXPECT_FALSE(remote.has_asked());
    const launch::RemoteTeacher::Answer answer = remote.take(two);
    EXPECT_EQ(testing::values_of(answer.hidden), testing::values_of(second));
    EXPECT_EQ(answer.layers.at(1).shape(), second.shape());
    remote.ask({one, two});
    EXPECT_EQ(testing::values_of(remote.take(two).hidden), testing::values_of(second));
    remote.ask({one});  // and never takes it
  });
}

// The student's ranks may have other things to do for longer than they would wait for each other.
TEST(TeacherRanks, WaitForQuestionsWithoutADeadline) {
  const data::TokenBatch samples = GoldenModel("matching.h5").samples();
  beside_teacher(
      fingerprint,
      [&](launch::RemoteTeacher& remote) {
        remote.take(samples);
        std::this_thread::sleep_for(std::chrono::milliseconds(1500));
        remote.take(samples);
      },
      std::chrono::milliseconds(1000));
}

TEST(TeacherRanks, NeedRanksOfBothSides) {
  testing::run_ranks(2, [](testing::RankWorld& world) {
    const parallel::Layout alone = parallel::parse_layout("dp1"), two = parallel::parse_layout("tp2");
    const auto expect = [&](int teachers, const parallel::Layout& student, const char* message) {
      EXPECT_THAT([&] { launch::TeacherRanks(world.comm, teachers, student, alone); },
                  ::testing::ThrowsMessage<core::UsageError>(::testing::HasSubstr(message)));
    };
    expect(2, alone, "parallel.teacher_ranks is 2, expected 1 or more, and fewer than the 2 ranks");
    expect(1, two, "layout 'tp2': the world has 1 ranks, expected a multiple of 2");
  });
}

}  // namespace
}  // namespace limbeck
