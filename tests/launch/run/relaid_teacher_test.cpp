// A teacher in a layout of its own over the student's ranks teaches what one beside the student does.
#include "launch/run/relaid_teacher.h"

#include <gmock/gmock.h>

#include "launch/run/teacher_service.h"
#include "tests/support/matched_steps.h"
#include "tests/support/tensors.h"

namespace limbeck {
namespace {

using core::DType;
using testing::GoldenModel;

constexpr const char* fingerprint = "00112233aabbccdd";

/// Calls then(rank, teacher) on each rank of a student's layout, of which the last stage's have the head.
template <class Then>
void with_relaid_teacher(int ranks, const char* student, const char* teacher, bool is_sharded, const Then& then) {
  testing::run_ranks(ranks, [&](testing::RankWorld& world) {
    const GoldenModel golden("matching.h5");
    const nn::ModelConfig config = golden.config("/teacher");
    const std::int64_t length = golden.samples().sequence_length;
    launch::Rank rank(world.comm, student, 1), side(rank, teacher, parallel::ExpertExchange::Auto);
    launch::RelaidTeacher relaid(
        rank, side, {.width = config.width, .hidden = DType::F64, .stream = DType::F64, .fingerprint = fingerprint});
    if (rank.is_last_stage()) {
      nn::Transformer beside(config, rank.frozen_copy(DType::F64));
      beside.load(golden.parameters("/teacher/parameters"));
      relaid.keep_head(beside.head().value, beside.head_bias().value);
    }
    launch::LoadedTeacher loaded;
    loaded.model = std::make_unique<nn::Transformer>(
        config,
        launch::on_stage(side, is_sharded ? side.frozen_shard(DType::F64) : side.frozen_copy(DType::F64), config, length));
    loaded.model->load(golden.parameters("/teacher/parameters"));
    loaded.fingerprint = fingerprint;
    relaid.take(std::move(loaded), length);
    then(rank, relaid);
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

TEST(RelaidTeacher, IsTheOneThatWasMeasured) {
  EXPECT_THAT(
      [] {
        with_relaid_teacher(1, "dp1", "dp1", false, [](launch::Rank&, launch::RelaidTeacher& relaid) {
          launch::LoadedTeacher other;
          other.fingerprint = "ffffffffffffffff";
          relaid.take(std::move(other), 8);
        });
      },
      ::testing::ThrowsMessage<core::Error>(
          ::testing::HasSubstr("the teacher has the fingerprint ffffffffffffffff under parallel.teacher_layout, 0011")));
}

}  // namespace
}  // namespace limbeck
