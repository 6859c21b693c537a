#include "launch/plan/cluster.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <map>

#include "data/files/atomic_file.h"
#include "launch/plan/expert_shares.h"
#include "tests/support/places.h"
#include "tests/support/temporary_folder.h"

namespace limbeck::launch {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::EndsWith;
using ::testing::HasSubstr;

class ClusterFile : public ::testing::Test {
 protected:
  Cluster read(const std::string& text) {
    testing::write_file(folder_ / "c.textproto", text);
    return load_cluster(folder_ / "c.textproto");
  }
  std::string error(const std::string& text) {
    return testing::error_of([&] { read(text); });
  }
  testing::TemporaryFolder folder_;
};

constexpr const char* device = "device { memory_gib: 8 float32_tflops: 2 memory_gb_s: 30 }";

TEST_F(ClusterFile, SaysWhatRanksAreOn) {
  const Cluster one = read(device);
  EXPECT_EQ(one.num_devices(), 1);
  EXPECT_EQ(one.name, "c");
  EXPECT_DOUBLE_EQ(one.flops(core::DType::F32), 2e12);
  EXPECT_THAT(testing::error_of([&] { one.flops(core::DType::BF16); }), HasSubstr("device.bfloat16_tflops"));
  EXPECT_FALSE(one.imagined().has_queue);
  const Cluster many =
      read(std::string(device) + "nodes: 2 devices_a_node: 4 inside { gb_s: 100 } between { gb_s: 10 latency_us: 7 }");
  EXPECT_EQ(many.num_devices(), 8);
  EXPECT_EQ(many.link_of(std::array{0, 3}).gb_s, 100);
  EXPECT_EQ(many.link_of(std::array{4, 5, 6, 7}).gb_s, 100);
  EXPECT_EQ(many.link_of(std::array{3, 4}).latency_us, 7);
  // 16 lanes of 16 GT/s, of 130 bits 128 of data, of which four fifths.
  EXPECT_NEAR(many.host_bus().gb_s, 0.8 * 16 * 16 / 8 * 128 / 130, 0.5);
  EXPECT_EQ(read(std::string(device) + "bus { gb_s: 50 }").host_bus().gb_s, 50);
}

TEST_F(ClusterFile, KernelsAreAsFastAsTheMemoryUnlessItSaysMore) {
  EXPECT_DOUBLE_EQ(read(device).kernel_rate(), 30e9);
  EXPECT_DOUBLE_EQ(read("device { memory_gib: 8 float32_tflops: 2 memory_gb_s: 30 kernel_gb_s: 4 }").kernel_rate(),
                   4e9);
}

TEST_F(ClusterFile, IsReadAsItWasSaved) {
  const std::string text = R"(name: "c"
nodes: 2
devices_a_node: 4
device {
  name: "d"
  is_gpu: true
  memory_gib: 8.5
  float32_tflops: 2
  bfloat16_tflops: 3
  memory_gb_s: 30
  watts: 70
  kernel_gb_s: 9
  threads: 6
}
inside {
  gb_s: 100
  latency_us: 3
}
between {
  gb_s: 10
  latency_us: 0
}
watts_a_node: 5
watts_factor: 1.5
price {
  device_hour: 0.5
  kwh: 0.25
  currency: "EUR"
}
bus {
  gb_s: 50
  latency_us: 2
}
)";
  const std::filesystem::path saved = folder_ / "of/a/user/saved.textproto";
  save_cluster(saved, read(text), "measured\nonce");
  EXPECT_EQ(data::read_text_file(saved, 4096), "# measured\n# once\n" + text);
  save_cluster(saved, read(device), "");
  EXPECT_EQ(load_cluster(saved).num_devices(), 1);
  // A bus that nobody said is not written down as if somebody had.
  save_cluster(saved, read("device { is_gpu: true memory_gib: 8 float32_tflops: 2 memory_gb_s: 30 }"), "");
  EXPECT_EQ(load_cluster(saved).bus.gb_s, 0);
}

TEST_F(ClusterFile, NamesWhatIsWrong) {
  EXPECT_THAT(error("nodes: 1"), EndsWith("c.textproto: device.memory_gib is 0, expected 1e-06 to 1000000000"));
  EXPECT_THAT(error(std::string(device) + "nodes: 0"), EndsWith("nodes is 0, expected 1 to 1000000"));
  EXPECT_THAT(error(std::string(device) + "nodes: 2"), EndsWith("between.gb_s is 0, expected 1e-06 to 1000000000"));
  EXPECT_THAT(error(std::string(device) + "watts_factor: 0.5"), EndsWith("watts_factor is 0.5, expected 1 to 1000"));
  EXPECT_THAT(error("nodes: 1\ndevise {}"), HasSubstr("c.textproto:2:"));
}

// Each would wrap, or make infinite times of what is planned.
TEST_F(ClusterFile, NumbersHaveBounds) {
  const std::string one(device);
  EXPECT_THAT(error(one + "nodes: 9223372036854775807"),
              EndsWith("nodes is 9223372036854775807, expected 1 to 1000000"));
  EXPECT_THAT(error(one + "nodes: 4294967296 devices_a_node: 4294967296"), HasSubstr("nodes is 4294967296"));
  EXPECT_THAT(error(one + "devices_a_node: 1000001"), HasSubstr("devices_a_node is 1000001"));
  EXPECT_EQ(read(one + "nodes: 1000000 devices_a_node: 1000000 inside { gb_s: 1 } between { gb_s: 1 }").num_devices(),
            1'000'000'000'000);
  const std::map<std::string, std::string> good = {
      {"memory_gib", "8"}, {"float32_tflops", "2"}, {"bfloat16_tflops", "4"}, {"memory_gb_s", "30"}};
  for (const auto& [field, unused] : good)
    for (const char* value : {"1e300", "1e-300", "inf", "nan", "-1"}) {
      std::map<std::string, std::string> fields = good;
      fields[field] = value;
      std::string text;
      for (const auto& [name, number] : fields) text += name + ": " + number + " ";
      EXPECT_THAT(error("device { " + text + "}"),
                  AllOf(HasSubstr("device." + field), EndsWith("expected 1e-06 to 1000000000")))
          << value;
    }
  EXPECT_THAT(error(one + "inside { gb_s: 1e300 }"), HasSubstr("inside.gb_s is 1e+300"));
  for (const char* text : {"inside { gb_s: 1 latency_us: 1e300 }", "watts_a_node: 1e300", "watts_factor: 1e300",
                           "price { device_hour: 1e300 }", "price { kwh: inf }"})
    EXPECT_THAT(error(one + text), HasSubstr(", expected ")) << text;
}

TEST_F(ClusterFile, ExamplesAreRead) {
  const std::filesystem::path folder = testing::source_folder() / "examples/clusters";
  EXPECT_EQ(load_cluster(folder / "laptop.textproto").num_devices(), 1);
  EXPECT_EQ(load_cluster(folder / "h100.textproto").num_devices(), 1);
  EXPECT_EQ(load_cluster(folder / "h100_node.textproto").num_devices(), 8);
  EXPECT_EQ(load_cluster(folder / "h100_cluster.textproto").num_devices(), 512);
}

// 1, 1/2, 1/3 and 1/4 are of 25/12.
TEST(ExpertShares, AreThoseOfZipfsLawAscending) {
  const std::vector<double> shares = zipf_shares(4, 1);
  ASSERT_EQ(shares.size(), 4U);
  for (std::size_t i = 0; i < 4; ++i) EXPECT_NEAR(shares[i], 12.0 / 25 / static_cast<double>(4 - i), 1e-12);
  EXPECT_THAT(zipf_shares(2, 0), ElementsAre(0.5, 0.5));
}

// Of C(4,2) = 6 pairs, 3 have the first of four experts and 5 one of the first two; of uneven shares all parts of a
// token's choices come to their number.
TEST(ExpertShares, GiveThePartOfTheTokens) {
  EXPECT_NEAR(share_of_tokens({}, {true, false, false, false}, 2), 0.5, 1e-12);
  EXPECT_NEAR(share_of_tokens({}, {true, true, false, false}, 2), 5.0 / 6, 1e-12);
  EXPECT_DOUBLE_EQ(share_of_tokens({}, {true, true, true, false}, 2), 1);
  EXPECT_DOUBLE_EQ(share_of_tokens({}, {false, false, false, false}, 2), 0);
  const std::vector<double> shares = {0.1, 0.2, 0.3, 0.4};
  std::vector<double> alone;
  for (std::size_t e = 0; e < 4; ++e) {
    std::vector<bool> one(4, false);
    one[e] = true;
    alone.push_back(share_of_tokens(shares, one, 2));
  }
  EXPECT_TRUE(std::ranges::is_sorted(alone));
  EXPECT_NEAR(alone[0] + alone[1] + alone[2] + alone[3], 2, 1e-12);
  EXPECT_DOUBLE_EQ(share_of_tokens(shares, {true, true, true, true}, 2), 1);
}

// Of shares that leave a token no choice, and of as many experts as no product of their odds can be held.
TEST(ExpertShares, OfTokensAreNumbersAtTheEnds) {
  EXPECT_NEAR(share_of_tokens({0, 0, 0, 1}, {false, false, false, true}, 2), 1, 2e-3);
  EXPECT_NEAR(share_of_tokens({0, 0, 0, 1}, {true, true, true, false}, 2), 1,
              1e-12);  // two of which one is not the last
  std::vector<bool> first(128, false);
  first[0] = true;
  EXPECT_NEAR(share_of_tokens({}, first, 128), 1, 1e-12);
  EXPECT_NEAR(share_of_tokens({}, std::vector<bool>(128, false), 128), 0, 1e-12);
  const double rarest = share_of_tokens(zipf_shares(128, 10), first, 64);
  EXPECT_GE(rarest, 0);
  EXPECT_LE(rarest, 0.5);
}

TEST(ExpertShares, AreThoseOfARun) {
  const testing::TemporaryFolder folder;
  testing::write_file(
      folder / "metrics.jsonl",
      "{\"step\":1,\"expert_load\":[{\"layer\":0,\"assignments\":[1,1]},{\"layer\":1,\"assignments\":[1,1]}]}\n"
      "{\"step\":2,\"expert_load\":[{\"layer\":0,\"assignments\":[3,1]},{\"layer\":1,\"assignments\":[4,4]}]}\n"
      "{\"step\":3,\"expert_load\":[{\"layer\":0}]}\n");
  EXPECT_THAT(measured_shares(folder.path(), 2), ElementsAre(0.375, 0.625));
  const ExpertShares shares = shares_of((folder / "metrics.jsonl").string(), 2, 4);
  ASSERT_EQ(shares.size(), 1U);  // nothing is known of the teacher's
  EXPECT_THAT(shares.at(2), ElementsAre(0.375, 0.625));
  EXPECT_THAT(testing::error_of([&] { measured_shares(folder.path(), 3); }),
              HasSubstr("2 experts, expected the model's 3"));
  EXPECT_THAT(testing::error_of([&] { shares_of("-1", 2); }), HasSubstr("expected an exponent"));
  EXPECT_THAT(testing::error_of([&] { shares_of("no/such", 2); }), HasSubstr("no/such cannot be read"));
  EXPECT_THAT(testing::error_of([&] { shares_of("1", 0); }), HasSubstr("has no experts"));
}

TEST(ExpertShares, AreOfEachModel) {
  const ExpertShares shares = shares_of("1", 2, 4);
  EXPECT_EQ(shares.at(2), zipf_shares(2, 1));
  EXPECT_EQ(shares.at(4), zipf_shares(4, 1));
  EXPECT_EQ(shares_of("1", 0, 4).size(), 1U);
  EXPECT_EQ(shares_of("1", 4).size(), 1U);
}

// A layer that nothing was sent to says nothing; what is no count is named by its line.
TEST(ExpertShares, OfARunAreChecked) {
  const testing::TemporaryFolder folder;
  const auto shares = [&](const std::string& assignments) {
    testing::write_file(
        folder / "metrics.jsonl",
        "{\"step\":1}\n{\"step\":2,\"expert_load\":[{\"layer\":0,\"assignments\":" + assignments + "}]}\n");
    return measured_shares(folder.path(), 2);
  };
  EXPECT_THAT(shares("[1,3]},{\"layer\":1,\"assignments\":[0,0]"), ElementsAre(0.25, 0.75));
  for (const char* wrong : {"[-1,3]", "[1,\"a\"]", "[1,null]", "\"many\"", "{\"a\":1,\"b\":2}", "7"})
    EXPECT_THAT(testing::error_of([&] { shares(wrong); }),
                AllOf(HasSubstr("metrics.jsonl:2: expert_load has assignments "), HasSubstr("expected a list")))
        << wrong;
  EXPECT_THAT(testing::error_of([&] { shares("[1,2,3]"); }), HasSubstr("metrics.jsonl:2: is of a run with 3 experts"));
  EXPECT_THAT(testing::error_of([&] { shares("[0,0]"); }), HasSubstr("has no line with assignments"));
}

}  // namespace
}  // namespace limbeck::launch
