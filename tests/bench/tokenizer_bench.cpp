// How fast a tokenizer is on one core, and what it makes of many strings:
//
//     bench_tokenizer TOKENIZER PATH [SECONDS]   # encodes the files there for so long, prints the median rate
//     bench_tokenizer TOKENIZER --lines < LINES
//
// The rate is of processor time. A line is a text in hexadecimal -> {"ids", "special_ids", "decoded" (hexadecimal)}, or
// "ids 1 2 3" -> {"decoded"}.
// TOKENIZER is what `limbeck tokenize --tokenizer` takes.
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <ctime>
#include <iostream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "data/text/text_source.h"
#include "launch/run/model_source.h"

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
  const auto now = [] { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; };
  std::vector<std::string> texts;
  double num_bytes = 0;
  for (const auto& file : limbeck::data::list_text_files({path})) {
    texts.push_back(limbeck::data::read_document(file));
    num_bytes += static_cast<double>(texts.back().size());
  }
  std::vector<double> times;
  std::size_t num_ids = 0;
  const double end = now() + seconds;
  do {
    const double start = now();
    num_ids = 0;
    for (const auto& text : texts) num_ids += tokenizer.encode(text).size();
    times.push_back(now() - start);
  } while (now() < end);
  const auto middle = times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2);
  std::nth_element(times.begin(), middle, times.end());
  fmt::print("{:.2f} MB/s, {} ids\n", num_bytes / *middle / 1e6, num_ids);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    fmt::print(stderr, "bench_tokenizer TOKENIZER PATH [SECONDS] | bench_tokenizer TOKENIZER --lines\n");
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
