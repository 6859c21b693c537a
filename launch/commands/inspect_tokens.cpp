// Token files.
#include <fmt/format.h>

#include <algorithm>
#include <string_view>

#include "core/counted.h"
#include "data/text/token_meta.h"
#include "data/text/token_statistics.h"
#include "launch/commands/inspect_parts.h"

namespace limbeck::launch {

using Json = nlohmann::ordered_json;

namespace {

double percent(std::int64_t part, std::int64_t whole) {
  return whole > 0 ? 100.0 * static_cast<double>(part) / static_cast<double>(whole) : 0;
}

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

/// Which ids there are, and how often.
void add_ids(Inspection& found, const data::TokenStatistics& s, std::int64_t num_tokens,
             const data::Tokenizer* tokenizer) {
  const auto spelling = spelt(s.last.first, tokenizer);
  found.add("ends", {{"id", s.last.first}, {"documents", s.last.second}, {"in_all", s.last_in_all}},
            fmt::format("{} by token {}{}, which is {:.3f} % of all tokens", core::counted(s.last.second, "document"),
                        s.last.first, spelling.empty() ? "" : " " + spelling, percent(s.last_in_all, num_tokens)));
  std::string used = fmt::format("{} used, {} to {}", core::counted(s.ids_used, "id"), s.least_id, s.greatest_id);
  if (tokenizer != nullptr)
    used += s.greatest_id < tokenizer->vocabulary_size()
                ? fmt::format(", {:.1f} % of the tokenizer's {}", percent(s.ids_used, tokenizer->vocabulary_size()),
                              tokenizer->vocabulary_size())
                : fmt::format(": not of this tokenizer, which has {}", tokenizer->vocabulary_size());
  found.add("vocabulary", {{"ids_used", s.ids_used}, {"least_id", s.least_id}, {"greatest_id", s.greatest_id}}, used);
  Json most_frequent = Json::array();
  std::string lines = "most frequent tokens\n";
  for (const auto& [id, count] : s.most_frequent) {
    most_frequent.push_back({{"id", id}, {"count", count}});
    if (tokenizer != nullptr && id < tokenizer->vocabulary_size())
      most_frequent.back()["text"] = tokenizer->decode(std::vector{id});
    lines +=
        fmt::format("  {:>22} {:>12}  {:>6.2f} %  {}\n", id, count, percent(count, num_tokens), spelt(id, tokenizer));
  }
  found.add_member("most_frequent", std::move(most_frequent));
  found.add_lines(lines);
}

}  // namespace

Inspection inspect_tokens(const data::TokenFile& file, const data::Tokenizer* tokenizer) {
  const data::TokenStatistics s = data::token_statistics(file);
  Inspection found("token file", file.prefix());
  found.add("type", file.token_type());
  found.add("documents", file.num_documents(),
            file.num_sequences() == file.num_documents()
                ? fmt::format("{}", file.num_documents())
                : fmt::format("{} of {}", file.num_documents(), core::counted(file.num_sequences(), "sequence")));
  found.add_member("sequences", file.num_sequences());
  found.add("tokens", file.num_tokens());
  if (const auto meta = data::read_token_meta(file)) {
    Json made_by = {{"vocabulary", meta->vocabulary}, {"parse_special", meta->parse_special}};
    if (!meta->chat_template.empty()) made_by["chat_template"] = meta->chat_template;
    if (meta->has_pairs) made_by["pairs"] = true;
    if (tokenizer != nullptr) made_by["is_given_tokenizer"] = data::is_made_by(*meta, *tokenizer);
    found.add("made by", made_by,
              fmt::format("a tokenizer of {} tokens{}{}", meta->vocabulary,
                          meta->parse_special           ? ", names of special tokens taken as such"
                          : meta->has_pairs             ? ", of pairs of a chosen and a rejected response"
                          : meta->chat_template.empty() ? ""
                                                        : ", of conversations by the template " + meta->chat_template,
                          tokenizer == nullptr                  ? ""
                          : data::is_made_by(*meta, *tokenizer) ? ": that given"
                                                                : ": another than that given"));
  }
  if (file.has_mask()) {
    std::int64_t targets = 0;
    for (std::int64_t i = 0; i < file.num_documents(); ++i)
      for (const std::uint8_t is_target : file.mask(i, 0, file.document_length(i))) targets += is_target;
    found.add("targets", targets,
              fmt::format("{}, {:.1f} % of the tokens", targets, percent(targets, file.num_tokens())));
  }
  if (file.num_documents() == 0) return found;
  found.add("length",
            {{"mean", s.mean},
             {"shortest", s.shortest},
             {"median", s.median},
             {"p90", s.p90},
             {"p99", s.p99},
             {"longest", s.longest}},
            fmt::format("mean {:.1f}, shortest {}, median {}, 90 % {}, 99 % {}, longest {}", s.mean, s.shortest,
                        s.median, s.p90, s.p99, s.longest));
  if (s.ids_used > 0) add_ids(found, s, file.num_tokens(), tokenizer);
  found.add_member("length_histogram", s.length_histogram);
  found.add_lines(histogram_text(s.length_histogram));
  return found;
}

}  // namespace limbeck::launch
