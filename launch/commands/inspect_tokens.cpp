#include "launch/commands/inspect_tokens.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>

#include "data/text/token_meta.h"
#include "data/text/token_statistics.h"

namespace limbeck::launch {

namespace {

double percent(std::int64_t part, std::int64_t whole) {
  return whole > 0 ? 100.0 * static_cast<double>(part) / static_cast<double>(whole) : 0;
}

std::string field(std::string_view name, std::string_view value) { return fmt::format("{:<12}{}\n", name, value); }

/// A token's text in quotes, fit for a line; nothing where it cannot be told.
std::string spelt(std::int32_t id, const data::Tokenizer* tokenizer) {
  if (tokenizer == nullptr || id >= tokenizer->vocabulary_size()) return "";
  std::string text;
  for (const char c : tokenizer->decode(std::vector{id})) {
    if (c == '\n')
      text += "\\n";
    else if (static_cast<unsigned char>(c) < 0x20 || static_cast<unsigned char>(c) >= 0x7f)
      text += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
    else
      text += c;
  }
  return fmt::format("\"{}\"", text);
}

std::string histogram_text(const std::vector<std::int64_t>& histogram) {
  constexpr std::int64_t width = 40;
  const std::int64_t most = *std::max_element(histogram.begin(), histogram.end());
  std::string text = "documents by length\n";
  for (std::size_t i = 0; i < histogram.size(); ++i) {
    if (histogram[i] == 0) continue;
    const std::int64_t low = i == 0 ? 0 : std::int64_t{1} << (i - 1);
    const std::int64_t high = i == 0 ? 0 : 2 * low - 1;
    const std::string range = low == high ? fmt::format("{}", low) : fmt::format("{} to {}", low, high);
    const auto bar = static_cast<std::size_t>(std::max<std::int64_t>(1, histogram[i] * width / most));
    text += fmt::format("  {:>22} {:>12}  {}\n", range, histogram[i], std::string(bar, '#'));
  }
  return text;
}

}  // namespace

std::string token_file_text(const data::TokenFile& file, const data::Tokenizer* tokenizer) {
  const data::TokenStatistics s = data::token_statistics(file);
  std::string text = field("kind", fmt::format("token file of {}", file.token_type()));
  text += field("documents", file.num_sequences() == file.num_documents()
                                 ? fmt::format("{}", file.num_documents())
                                 : fmt::format("{} of {} sequences", file.num_documents(), file.num_sequences()));
  text += field("tokens", fmt::format("{}", file.num_tokens()));
  if (const auto meta = data::read_token_meta(file))
    text += field("made by", fmt::format("a tokenizer of {} tokens{}{}", meta->vocabulary,
                                         meta->parse_special ? ", names of special tokens taken as such" : "",
                                         tokenizer == nullptr                  ? ""
                                         : data::is_made_by(*meta, *tokenizer) ? ": that given"
                                                                               : ": another than that given"));
  if (file.num_documents() == 0) return text;
  text += field("length", fmt::format("mean {:.1f}, shortest {}, median {}, 90 % {}, 99 % {}, longest {}", s.mean,
                                      s.shortest, s.median, s.p90, s.p99, s.longest));
  if (s.ids_used > 0) {
    const auto spelling = spelt(s.last.first, tokenizer);
    text += field("ends", fmt::format("{} documents end with token {}{}, which is {:.3f} % of all tokens",
                                      s.last.second, s.last.first, spelling.empty() ? "" : " " + spelling,
                                      percent(s.last_in_all, file.num_tokens())));
    std::string used = fmt::format("{} ids used, {} to {}", s.ids_used, s.least_id, s.greatest_id);
    if (tokenizer != nullptr)
      used += s.greatest_id < tokenizer->vocabulary_size()
                  ? fmt::format(", {:.1f} % of the tokenizer's {}", percent(s.ids_used, tokenizer->vocabulary_size()),
                                tokenizer->vocabulary_size())
                  : fmt::format(": not of this tokenizer, which has {}", tokenizer->vocabulary_size());
    text += field("vocabulary", used);
    text += "most frequent tokens\n";
    for (const auto& [id, count] : s.most_frequent)
      text += fmt::format("  {:>22} {:>12}  {:>6.2f} %  {}\n", id, count, percent(count, file.num_tokens()),
                          spelt(id, tokenizer));
  }
  return text + histogram_text(s.length_histogram);
}

}  // namespace limbeck::launch
