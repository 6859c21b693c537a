// Event files, read back by a reader that shares nothing with the writer: framing and checksum bit by bit, protobuf's
// wire format by hand, fields by TensorFlow's numbers. tests/golden/check_events.py opens them with TensorBoard itself.
#include "launch/report/event_file.h"

#include <gmock/gmock.h>

#include <bit>
#include <cstring>
#include <map>
#include <variant>
#include <vector>

#include "core/error.h"
#include "tests/support/temporary_folder.h"

namespace limbeck::launch {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::read_file;

std::uint64_t little_endian(std::string_view bytes) {
  std::uint64_t value = 0;
  for (std::size_t i = bytes.size(); i-- > 0;) value = value << 8U | static_cast<unsigned char>(bytes[i]);
  return value;
}

/// The polynomial division as RFC 3720 describes it, a bit at a time.
std::uint32_t slow_crc32c(std::string_view bytes) {
  std::uint32_t crc = ~0U;
  for (const char c : bytes)
    for (unsigned bit = 0; bit < 8; ++bit) {
      const bool flips = ((crc ^ (static_cast<unsigned char>(c) >> bit)) & 1U) != 0;
      crc >>= 1U;
      if (flips) crc ^= 0x82f63b78U;
    }
  return ~crc;
}

std::uint64_t masked(std::string_view bytes) {
  return static_cast<std::uint32_t>(std::rotr(slow_crc32c(bytes), 15) + 0xa282ead8U);
}

/// A message's fields by number; numbers of fixed and variable length as their bits.
struct Message {
  std::multimap<int, std::variant<std::uint64_t, std::string>> fields;

  explicit Message(std::string_view bytes) {
    const auto varint = [&] {
      std::uint64_t value = 0;
      for (unsigned shift = 0;; shift += 7) {
        const auto byte = static_cast<unsigned char>(bytes.at(0));
        bytes.remove_prefix(1);
        value |= std::uint64_t{byte & 0x7fU} << shift;
        if (byte < 0x80) return value;
      }
    };
    const auto take = [&](std::size_t n) {
      const std::string taken(bytes.substr(0, n));
      if (taken.size() != n) throw std::runtime_error("a field is cut off");
      bytes.remove_prefix(n);
      return taken;
    };
    while (!bytes.empty()) {
      const std::uint64_t key = varint();
      const int number = static_cast<int>(key >> 3U);
      switch (key & 7U) {
        case 0:
          fields.emplace(number, varint());
          break;
        case 1:
          fields.emplace(number, little_endian(take(8)));
          break;
        case 2:
          fields.emplace(number, take(varint()));
          break;
        case 5:
          fields.emplace(number, little_endian(take(4)));
          break;
        default:
          throw std::runtime_error("unknown wire type");
      }
    }
  }
  bool has(int number) const { return fields.contains(number); }
  std::uint64_t bits(int number) const { return std::get<std::uint64_t>(fields.find(number)->second); }
  std::string bytes(int number) const { return std::get<std::string>(fields.find(number)->second); }
  Message message(int number) const { return Message(bytes(number)); }
  double real(int number) const { return std::bit_cast<double>(bits(number)); }
};

/// The events of a file, each with its checksums checked.
std::vector<Message> read_events(const fs::path& path) {
  const std::string file = read_file(path);
  std::string_view rest = file;
  std::vector<Message> events;
  while (!rest.empty()) {
    const std::uint64_t length = little_endian(rest.substr(0, 8));
    EXPECT_GE(rest.size(), length + 16);
    EXPECT_EQ(little_endian(rest.substr(8, 4)), masked(rest.substr(0, 8)));
    EXPECT_EQ(little_endian(rest.substr(12 + length, 4)), masked(rest.substr(12, length)));
    events.emplace_back(rest.substr(12, length));
    rest.remove_prefix(length + 16);
  }
  return events;
}

/// Scalars of an event by their tags.
std::map<std::string, float> scalars(const Message& event) {
  std::map<std::string, float> found;
  const Message summary = event.message(5);
  for (const auto& [number, value] : summary.fields) {
    const Message entry(std::get<std::string>(value));
    if (entry.has(2)) found[entry.bytes(1)] = std::bit_cast<float>(static_cast<std::uint32_t>(entry.bits(2)));
  }
  return found;
}

TEST(Crc32c, HasTheValuesOfTheRfc) {
  EXPECT_EQ(crc32c(""), 0U);
  EXPECT_EQ(crc32c("123456789"), 0xe3069283U);
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8a9136aaU);  // RFC 3720, B.4
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62a8ab43U);
  std::string ascending;
  for (int i = 0; i < 32; ++i) ascending += static_cast<char>(i);
  EXPECT_EQ(crc32c(ascending), 0x46dd794eU);
}

TEST(EventFile, BeginsWithItsVersionAndTheFirstStep) {
  const testing::TemporaryFolder folder;
  const double before = wall_time();
  const EventFile file(folder.path(), 41);
  EXPECT_THAT(file.path().filename().string(), ::testing::MatchesRegex("events\\.out\\.tfevents\\.[0-9]+\\..+"));
  const auto events = read_events(file.path());
  ASSERT_EQ(events.size(), 2U);
  EXPECT_EQ(events[0].bytes(3), "brain.Event:2");
  EXPECT_GE(events[0].real(1), before);
  EXPECT_LE(events[0].real(1), wall_time());
  EXPECT_EQ(events[1].message(7).bits(1), 1U);  // SessionLog START
  EXPECT_EQ(events[1].bits(2), 42U);
}

TEST(EventFile, HasEveryNumberOfALine) {
  const testing::TemporaryFolder folder;
  EventFile file(folder.path(), 0);
  file.write({{"step", 7}, {"time", 1234.5}, {"loss", 2.5}, {"tokens", 4096}, {"eval_kl", 0.75}, {"note", nullptr}});
  const auto events = read_events(file.path());  // it is there at once
  ASSERT_EQ(events.size(), 3U);
  EXPECT_EQ(events[2].bits(2), 7U);
  EXPECT_EQ(events[2].real(1), 1234.5);
  EXPECT_EQ(scalars(events[2]),
            (std::map<std::string, float>{{"train/loss", 2.5F}, {"train/tokens", 4096.F}, {"eval/kl", 0.75F}}));
}

TEST(EventFile, ExpertLoadIsScalarsAndAHistogramALayer) {
  const testing::TemporaryFolder folder;
  EventFile file(folder.path(), 0);
  file.write({{"step", 1},
              {"time", 1.0},
              {"expert_load",
               {{{"layer", 1}, {"min", 0.25}, {"entropy", 0.5}},
                {{"layer", 3}, {"min", 0.125}, {"entropy", 1}, {"assignments", {5, 0, 11}}}}}});
  const Message event = read_events(file.path()).at(2);
  EXPECT_EQ(scalars(event), (std::map<std::string, float>{{"expert_load/layer_1/min", 0.25F},
                                                          {"expert_load/layer_1/entropy", 0.5F},
                                                          {"expert_load/layer_3/min", 0.125F},
                                                          {"expert_load/layer_3/entropy", 1.F}}));
  const Message summary = event.message(5);
  const Message last(std::get<std::string>(summary.fields.rbegin()->second));
  EXPECT_EQ(last.bytes(1), "expert_load/layer_3/assignments");
  const Message histogram = last.message(5);
  EXPECT_EQ(histogram.real(1), -0.5);  // each expert has a width of 1
  EXPECT_EQ(histogram.real(2), 2.5);
  EXPECT_EQ(histogram.real(3), 16);      // num
  EXPECT_EQ(histogram.real(4), 2 * 11);  // sum over experts of place times count
  EXPECT_EQ(histogram.real(5), 4 * 11);
  const auto doubles = [&](int number) {
    const std::string bytes = histogram.bytes(number);
    std::vector<double> values(bytes.size() / sizeof(double));
    std::memcpy(values.data(), bytes.data(), bytes.size());
    return values;
  };
  EXPECT_THAT(doubles(6), ElementsAre(0.5, 1.5, 2.5));
  EXPECT_THAT(doubles(7), ElementsAre(5, 0, 11));
}

TEST(EventFile, ATextIsForTheTextPlugin) {
  const testing::TemporaryFolder folder;
  EventFile file(folder.path(), 0);
  file.write_text("config", "train {\n  steps: 1\n}\n");
  const Message event = read_events(file.path()).at(2);
  EXPECT_EQ(event.bits(2), 1U);
  const Message value = event.message(5).message(1);
  EXPECT_EQ(value.bytes(1), "config");
  EXPECT_EQ(value.message(9).message(1).bytes(1), "text");
  EXPECT_EQ(value.message(9).bits(4), 2U);  // DATA_CLASS_TENSOR
  EXPECT_EQ(value.message(8).bits(1), 7U);  // DT_STRING
  EXPECT_EQ(value.message(8).bytes(8), "    train {\n      steps: 1\n    }\n    ");
}

TEST(EventFile, LaterFilesSortAfterEarlierOnes) {
  const testing::TemporaryFolder folder;
  testing::write_file(folder / "events.out.tfevents.4000000000.elsewhere", "");
  testing::write_file(folder / "events.out.tfevents.99999999999999999999.junk", "");
  std::string last = "events.out.tfevents.4000000000.elsewhere";
  for (int i = 0; i < 3; ++i) {
    const EventFile file(folder.path(), i);
    EXPECT_GT(file.path().filename().string(), last);
    last = file.path().filename().string();
  }
}

TEST(EventFile, UnwritablePlaceIsNamed) {
  EXPECT_THAT(testing::error_of([] { EventFile("/no/such/folder", 0); }), HasSubstr("/no/such/folder"));
}

}  // namespace
}  // namespace limbeck::launch
