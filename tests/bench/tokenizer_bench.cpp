// How fast a tokenizer is on one core, and what it makes of many strings:
//
//     bench_tokenizer TOKENIZER FILE [SECONDS]   # encodes FILE again and again, prints the best rate
//     bench_tokenizer TOKENIZER --lines < HEX    # a hexadecimal text a line -> {"ids", "special_ids", "decoded"
//     (hexadecimal)}; a line "ids 1 2 3" -> {"decoded"}
//
// TOKENIZER is what `limbeck tokenize --tokenizer` takes.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <iostream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "data/text_source.h"
#include "launch/model_source.h"

namespace {

using limbeck::data::Tokenizer;

std::string from_hex(const std::string& hex) {
  std::string bytes;
  for (std::size_t i = 0; i + 1 < hex.size(); i += 2)
    bytes.push_back(static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16)));
  return bytes;
}

std::string to_hex(const std::string& bytes) {
  std::string hex;
  for (const char c : bytes) hex += fmt::format("{:02x}", static_cast<unsigned char>(c));
  return hex;
}

void encode_lines(const Tokenizer& tokenizer) {
  for (std::string line; std::getline(std::cin, line);) {
    if (line.starts_with("ids")) {
      std::istringstream numbers(line.substr(3));
      const std::vector<std::int32_t> ids(std::istream_iterator<std::int32_t>(numbers), {});
      std::cout << nlohmann::json{{"decoded", to_hex(tokenizer.decode(ids))}} << '\n';
      continue;
    }
    const std::string text = from_hex(line);
    const auto ids = tokenizer.encode(text);
    std::cout << nlohmann::json{{"ids", ids},
                                {"special_ids", tokenizer.encode(text, true)},
                                {"decoded", to_hex(tokenizer.decode(ids))}}
              << '\n';
  }
}

void measure(const Tokenizer& tokenizer, const std::string& path, double seconds) {
  using Clock = std::chrono::steady_clock;
  const std::string text = limbeck::data::read_document(path);
  double best = 1e300;
  std::size_t num_ids = 0;
  const auto end = Clock::now() + std::chrono::duration<double>(seconds);
  do {
    const auto start = Clock::now();
    num_ids = tokenizer.encode(text).size();
    best = std::min(best, std::chrono::duration<double>(Clock::now() - start).count());
  } while (Clock::now() < end);
  fmt::print("{:.2f} MB/s, {} ids\n", static_cast<double>(text.size()) / best / 1e6, num_ids);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    fmt::print(stderr, "bench_tokenizer TOKENIZER FILE [SECONDS] | bench_tokenizer TOKENIZER --lines\n");
    return 2;
  }
  try {
    const auto tokenizer = limbeck::launch::open_tokenizer(argv[1]);
    if (std::string(argv[2]) == "--lines")
      encode_lines(*tokenizer);
    else
      measure(*tokenizer, argv[2], argc > 3 ? std::atof(argv[3]) : 5);
  } catch (const std::exception& error) {
    fmt::print(stderr, "bench_tokenizer: error: {}\n", error.what());
    return 1;
  }
  return 0;
}
