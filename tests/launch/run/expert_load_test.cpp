#include "launch/run/expert_load.h"

#include <gmock/gmock.h>

#include <cmath>
#include <numeric>
#include <vector>

namespace limbeck::launch {
namespace {

ExpertLoad load(const std::vector<double>& assignments) {
  return expert_load(assignments, std::accumulate(assignments.begin(), assignments.end(), 0.0));
}

TEST(ExpertLoad, AnEvenLoadHasEntropyOne) {
  const ExpertLoad even = load({5, 5, 5});
  EXPECT_DOUBLE_EQ(even.min, 1.0 / 3);
  EXPECT_DOUBLE_EQ(even.max, 1.0 / 3);
  EXPECT_DOUBLE_EQ(even.entropy, 1);
}

TEST(ExpertLoad, OneExpertWithEverythingHasEntropyZero) {
  const ExpertLoad one = load({0, 12, 0, 0});
  EXPECT_EQ(one.min, 0);
  EXPECT_EQ(one.max, 1);
  EXPECT_EQ(one.entropy, 0);
}

TEST(ExpertLoad, EntropyIsRelativeToTheNumberOfExperts) {
  // Half of the experts share everything evenly: log(E / 2) / log(E).
  EXPECT_NEAR(load({3, 3, 0, 0}).entropy, 0.5, 1e-15);
  EXPECT_NEAR(load({2, 2, 2, 2, 0, 0, 0, 0}).entropy, 2.0 / 3, 1e-15);
  // Shares 1/2, 1/4, 1/4: 1.5 bits of log2(3).
  EXPECT_NEAR(load({2, 1, 1}).entropy, 1.5 / std::log2(3.0), 1e-15);
}

TEST(ExpertLoad, DropsAreWhatNoExpertTook) {
  EXPECT_EQ(load({3, 1}).drops, 0);
  EXPECT_EQ(expert_load(std::vector<double>{3, 1}, 10).drops, 6);
  EXPECT_EQ(expert_load(std::vector<double>{3, 1}, 10).max, 0.75);
  EXPECT_EQ(expert_load(std::vector<double>{0, 0}, 10).drops, 10);
}

TEST(ExpertLoad, NothingAssignedAndASingleExpert) {
  EXPECT_EQ(load({0, 0}).entropy, 0);
  EXPECT_EQ(load({0, 0}).max, 0);
  EXPECT_EQ(load({}).entropy, 0);
  EXPECT_EQ(load({7}).entropy, 1);
  EXPECT_EQ(load({7}).min, 1);
}

TEST(MostLoaded, AreTheFirstAboveTheMeanInTheirOrder) {
  using ::testing::ElementsAre;
  using ::testing::IsEmpty;
  const std::vector<double> loads = {1, 9, 4, 0, 9, 7};  // 5 in the mean
  EXPECT_THAT(most_loaded(loads, 1), ElementsAre(1));
  EXPECT_THAT(most_loaded(loads, 2), ElementsAre(1, 4));
  EXPECT_THAT(most_loaded(loads, 3), ElementsAre(1, 4, 5));
  EXPECT_THAT(most_loaded(loads, 6), ElementsAre(1, 4, 5));
  EXPECT_THAT(most_loaded(std::vector<double>{3, 3, 3}, 2), IsEmpty());
  EXPECT_THAT(most_loaded(std::vector<double>{0, 0}, 2), IsEmpty());
}

nn::ModelConfig model_of(std::int64_t layers, std::vector<std::int64_t> dense) {
  nn::ModelConfig model;
  model.num_layers = layers;
  model.moe = {.num_experts = 4, .dense_layers = std::move(dense)};
  return model;
}

TEST(ModelLoad, IsOfTheLayersWithExpertsByTheirNumbers) {
  const auto load = model_load(model_of(4, {1}), {{8, 8, 8, 8}, {16, 16, 0, 0}, {16, 8, 8, 0}});
  ASSERT_TRUE(load);
  EXPECT_NEAR(load->mean_entropy, (1 + 0.5 + 0.75) / 3, 1e-15);  // 2, 1 and 1.5 of 2 bits
  EXPECT_NEAR(load->worst_entropy, 0.5, 1e-15);
  EXPECT_EQ(load->worst_layer, 2);
  EXPECT_EQ(load->num_experts, 12);
  EXPECT_EQ(load->num_starved, 3);
  EXPECT_EQ(load->starved_layers, (std::vector<std::int64_t>{2, 3}));
  EXPECT_EQ(load->even_share, 8);
  EXPECT_FALSE(model_load(model_of(2, {0, 1}), {}));
}

TEST(ModelLoad, AnExpertStarvesBelowATwentiethOfAnEvenShare) {
  EXPECT_EQ(model_load(model_of(1, {}), {{5, 95, 100, 200}})->num_starved, 0);
  EXPECT_EQ(model_load(model_of(1, {}), {{4, 96, 100, 200}})->num_starved, 1);
}

TEST(ModelLoad, AWarningNamesTheLayersAndTheRemedy) {
  const auto warning =
      starved_warning(model_load(model_of(4, {1}), {{20, 20, 20, 20}, {80, 0, 0, 0}, {50, 30, 0, 0}}), false);
  ASSERT_TRUE(warning);
  EXPECT_THAT(*warning, ::testing::HasSubstr("5 of 12 experts starve, in layers 2, 3: "));
  EXPECT_THAT(*warning, ::testing::HasSubstr("optimizer.groups"));
  EXPECT_EQ(warning->find('\n'), std::string::npos);
  EXPECT_THAT(*warning, ::testing::HasSubstr("balance_weight helps"));
  const std::optional<ModelLoad> one_layer = model_load(model_of(1, {}), {{80, 0, 0, 0}});
  EXPECT_THAT(*starved_warning(one_layer, false), ::testing::HasSubstr("in layer 0: "));
  // Where experts choose the balance loss is refused, until tokens do.
  EXPECT_THAT(*starved_warning(one_layer, true),
              ::testing::AllOf(::testing::HasSubstr("routing.expert_choice=false --set moe_loss.balance_weight="),
                               ::testing::Not(::testing::HasSubstr("balance_weight helps"))));
  // Nothing to say: none starves, so few tokens that it may be chance, no experts.
  EXPECT_FALSE(starved_warning(model_load(model_of(1, {}), {{20, 20, 20, 20}}), false));
  EXPECT_FALSE(starved_warning(model_load(model_of(1, {}), {{76, 0, 0, 0}}), false));
  EXPECT_FALSE(starved_warning(std::nullopt, false));
}

}  // namespace
}  // namespace limbeck::launch
