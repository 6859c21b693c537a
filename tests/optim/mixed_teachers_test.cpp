// Several teachers at once under the fused head, against PyTorch in float64 (tests/golden/objectives/make_mixed.py).
#include "core/ops/mixed_teachers.h"
#include "core/ops/tensor_exchange.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/slice.h"
#include "kernels/distillation.h"
#include "optim/objectives.h"
#include "parallel/axes/communicators.h"
#include "tests/support/golden_model.h"
#include "tests/support/teacher_file.h"
#include "tests/support/thread_ranks.h"

namespace limbeck::optim {
namespace {

using core::DType;
using core::MixedTeachers;
using core::Tape;
using core::TeacherOutput;
using core::Tensor;
using core::Var;
using kernels::Divergence;

const std::map<std::string, Divergence> kinds = {{"forward_kl", Divergence::ForwardKl},
                                                 {"reverse_kl", Divergence::ReverseKl},
                                                 {"jensen_shannon", Divergence::JensenShannon}};

struct Golden {
  nlohmann::json all = nlohmann::json::parse(std::ifstream(testing::golden_path("objectives/mixed.json")));
  std::vector<std::int32_t> targets = all.at("targets");
  std::int64_t tokens = std::ssize(targets), valid = all.at("valid");
  core::MemoryPtr memory = core::Memory::cpu(1);

  /// Rows of the width that follows from their number.
  Tensor rows(const nlohmann::json& values, std::int64_t count) const {
    const std::vector<double> all_values = values;
    return Tensor::from<double>(memory, {count, std::ssize(all_values) / count}, all_values);
  }
  Tensor head(const nlohmann::json& of, core::Slice part) const {
    return rows(of.at("head"), vocabulary()).rows(part.first, part.count);
  }
  std::int64_t vocabulary() const { return 12; }
  Tensor shares(std::size_t teacher) const {
    const std::vector<double> values = all.at("shares").at(teacher);
    return Tensor::from<double>(memory, {tokens}, values);
  }
};

struct Ran {
  core::LossStatistics figures;
  std::vector<double> hidden, head;  // gradients
};

Ran run(const Golden& golden, const nlohmann::json& of_case, core::TargetSource& teacher, nn::TensorComm& comm,
        core::Slice part, DType dtype, std::int64_t chunk) {
  const Distillation objective({.ce_weight = of_case.at("alpha"),
                                .temperature = of_case.at("temperature"),
                                .divergence = kinds.at(of_case.at("divergence"))});
  Tape tape;
  const Var hidden = core::leaf(golden.rows(golden.all.at("hidden"), golden.tokens).to(dtype));
  const Var head = core::leaf(golden.head(golden.all, part).to(dtype));
  core::LossAccumulator losses(golden.memory);
  tape.backward(core::head_loss(tape, core::enter(tape, hidden, comm), head,
                                Tensor::from<std::int32_t>(golden.memory, {golden.tokens}, golden.targets), objective,
                                &teacher, comm,
                                {.weight = golden.all.at("weight"),
                                 .chunk = chunk,
                                 .vocabulary_offset = part.first,
                                 .valid_vocabulary = golden.valid},
                                losses));
  return {losses.read(), testing::values_of(hidden.slot->grad), testing::values_of(head.slot->grad)};
}

std::vector<TeacherOutput> teachers_of(const Golden& golden, core::Slice part, DType dtype) {
  std::vector<TeacherOutput> teachers;
  for (const nlohmann::json& teacher : golden.all.at("teachers"))
    teachers.push_back({golden.rows(teacher.at("hidden"), golden.tokens).to(dtype),
                        golden.head(teacher, part).to(dtype),
                        {},
                        golden.shares(teachers.size())});
  return teachers;
}

void expect_near(const std::vector<double>& found, const nlohmann::json& expected, double tolerance) {
  ASSERT_EQ(found.size(), expected.size());
  for (std::size_t i = 0; i < found.size(); ++i) EXPECT_NEAR(found[i], expected[i].get<double>(), tolerance) << i;
}

TEST(MixedTeachersTest, LossAndGradientsAreThoseOfTorchHoweverTheVocabularyIsCut) {
  for (const auto& [dtype, tolerance] : {std::pair{DType::F64, 1e-12}, {DType::F32, 3e-6}})
    for (const int ranks : {1, 2, 3})
      testing::run_ranks(ranks, [&, dtype = dtype, tolerance = tolerance](testing::RankWorld& world) {
        const Golden golden;
        const auto shared = parallel::make_tensor_comm(world.comm);
        nn::TensorComm& comm = *shared;
        const core::Slice part = core::slice_of(golden.vocabulary(), world.rank, ranks);
        for (const std::int64_t chunk : {0, 3})
          for (const nlohmann::json& of_case : golden.all.at("cases")) {
            SCOPED_TRACE(fmt::format("{} {} {} {}", core::name_of(dtype), ranks, chunk, of_case.dump().substr(0, 80)));
            MixedTeachers teacher(teachers_of(golden, part, dtype),
                                  Tensor::from<std::int32_t>(golden.memory, {golden.tokens}, golden.targets), comm,
                                  {.temperature = of_case.at("temperature"),
                                   .vocabulary_offset = part.first,
                                   .valid_vocabulary = golden.valid});
            const Ran ran = run(golden, of_case, teacher, comm, part, dtype, chunk);
            EXPECT_NEAR(ran.figures.loss, of_case.at("loss").get<double>(), tolerance);
            EXPECT_NEAR(ran.figures.teacher_ce, of_case.at("teacher_ce").get<double>(), 30 * tolerance);
            expect_near(ran.hidden, of_case.at("hidden_gradient"), tolerance);
            const nlohmann::json& whole = of_case.at("head_gradient");
            const std::int64_t width = std::ssize(whole) / golden.vocabulary();
            expect_near(
                ran.head,
                nlohmann::json(whole.begin() + part.first * width, whole.begin() + (part.first + part.count) * width),
                tolerance);
          }
      });
}

TEST(MixedTeachersTest, EqualOnesAreOne) {
  const Golden golden;
  nn::TensorComm& alone = *nn::single_communicators().tensor;
  const core::Slice all{0, golden.vocabulary()};
  for (const nlohmann::json& of_case : golden.all.at("cases")) {
    const TeacherOutput one = teachers_of(golden, all, DType::F64).front();
    TeacherOutput other = one;
    other.shares = golden.shares(1);
    MixedTeachers twice({one, other}, Tensor::from<std::int32_t>(golden.memory, {golden.tokens}, golden.targets), alone,
                        {.temperature = of_case.at("temperature"), .valid_vocabulary = golden.valid});
    core::OnlineTeacher once(one.hidden, one.head);
    const Ran a = run(golden, of_case, twice, alone, all, DType::F64, 0);
    const Ran b = run(golden, of_case, once, alone, all, DType::F64, 0);
    EXPECT_NEAR(a.figures.loss, b.figures.loss, 1e-13);
    EXPECT_NEAR(a.figures.kl, b.figures.kl, 1e-12);
    EXPECT_EQ(a.figures.agreement, b.figures.agreement);
    expect_near(a.hidden, b.hidden, 1e-13);
    expect_near(a.head, b.head, 1e-13);
  }
}

TEST(MixedTeachersTest, RefuseWhatDoesNotBelongTogether) {
  const Golden golden;
  nn::TensorComm& alone = *nn::single_communicators().tensor;
  const Tensor targets = Tensor::from<std::int32_t>(golden.memory, {golden.tokens}, golden.targets);
  std::vector<TeacherOutput> teachers = teachers_of(golden, {0, golden.vocabulary()}, DType::F64);
  const Tensor shares = std::exchange(teachers[1].shares, Tensor::zeros(golden.memory, DType::F64, {8}));
  EXPECT_THAT([&] { MixedTeachers(teachers, targets, alone, {}); },
              ::testing::ThrowsMessage<core::Error>(::testing::HasSubstr("expected float64 [7]")));
  teachers[1].shares = shares;
  teachers[1].head = teachers[1].head.rows(0, 11);
  EXPECT_THAT([&] { MixedTeachers(teachers, targets, alone, {}); },
              ::testing::ThrowsMessage<core::Error>(::testing::HasSubstr("expected 7 rows and logits float64 of 12")));
}

}  // namespace
}  // namespace limbeck::optim
