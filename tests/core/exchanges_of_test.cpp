#include "core/exchanges_of.h"

#include <gtest/gtest.h>

#include <thread>

namespace limbeck::core {
namespace {

TEST(ExchangesOf, AreWrittenOut) {
  EXPECT_EQ(describe(Subject{}), "");
  EXPECT_EQ(describe(Subject("losses of the step")), "losses of the step");
  EXPECT_EQ(describe(Subject("gradients of", name_of_many("norm.weight", 1))), "gradients of norm.weight");
  EXPECT_EQ(describe(Subject("values of", name_of_many("layers.0.mlp.up.weight", 4))),
            "values of layers.0.mlp.up.weight and 3 more");
  const Subject forward("micro-batch", 0, "forward");
  EXPECT_EQ(describe(forward), "micro-batch 0, forward");
  EXPECT_EQ(describe(part_of(forward, "stream to the next stage")), "micro-batch 0, stream to the next stage");
  EXPECT_EQ(describe(part_of({}, "dispatch")), "dispatch");
  EXPECT_EQ(describe(part_of(of_teacher(forward), "stream to the next stage")),
            "teacher's micro-batch 0, stream to the next stage");
}

TEST(ExchangesOf, WithinATeachersAreTheTeachers) {
  const ExchangesOf student("micro-batch", 2, "forward");
  {
    const ExchangesOf pass(of_teacher(Subject("pass", 1, "forward")));
    EXPECT_EQ(describe(ExchangesOf::now()), "teacher's pass 1, forward");
    const ExchangesOf experts("experts of layer", 3);
    EXPECT_EQ(describe(part_of(ExchangesOf::now(), "dispatch")), "teacher's experts of layer 3, dispatch");
  }
  const ExchangesOf experts("experts of layer", 3);
  EXPECT_EQ(describe(ExchangesOf::now()), "experts of layer 3");
}

TEST(ExchangesOf, EndWithTheirScopeAndAreOfOneThread) {
  Subject kept;
  {
    const ExchangesOf pass("micro-batch", 2);
    {
      const ExchangesOf gradients("gradients of", name_of_many("norm.weight", 1));
      kept = ExchangesOf::now();
    }
    EXPECT_EQ(describe(ExchangesOf::now()), "micro-batch 2");
    std::jthread([] { EXPECT_EQ(describe(ExchangesOf::now()), ""); });
  }
  EXPECT_EQ(describe(ExchangesOf::now()), "");
  EXPECT_EQ(describe(kept), "gradients of norm.weight");  // although whoever named it has gone
}

}  // namespace
}  // namespace limbeck::core
