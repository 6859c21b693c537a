#include "data/text/tokenize_journal.h"

#include <sys/stat.h>
#include <xxhash.h>

#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "core/error.h"
#include "core/system_error.h"
#include "data/text/token_file_format.h"

namespace limbeck::data {

using core::check;
using core::check_system;
using nlohmann::json;

namespace {

constexpr int version = 2;

std::string head_line(const std::string& identity) {
  return json{{"limbeck_tokenize", version}, {"identity", identity}}.dump() + "\n";
}

json to_json(const TokenizeState& state) {
  const TokenizeCounts& c = state.counts;
  return {{"files", state.files_done},
          {"offset", state.place.offset},
          {"lines", state.place.line},
          {"documents", c.documents},
          {"bytes", c.bytes},
          {"tokens", c.tokens},
          {"dropped", c.encode.dropped_bytes},
          {"repaired", c.encode.repaired_sequences},
          {"special", c.encode.special_names}};
}

TokenizeState state_of(const json& line) {
  const auto number = [&](const char* name) {
    const auto value = line.at(name).get<std::int64_t>();
    check(value >= 0, "{} is {}", name, value);
    return value;
  };
  return {number("files"),
          {number("offset"), number("lines")},
          {number("documents"),
           number("bytes"),
           number("tokens"),
           {number("dropped"), number("repaired"), number("special")}}};
}

std::int64_t begun_in(const TokenizeState& state) { return state.files_done + (state.place.offset > 0 ? 1 : 0); }

std::string dump(const json& line) { return line.dump(-1, ' ', false, json::error_handler_t::replace); }

std::string hash_of(const json& line) {
  const std::string text = dump(line);
  return fmt::format("{:016x}", XXH3_64bits(text.data(), text.size()));
}

/// A whole line as JSON, without its hash; nothing for one that is cut short, no JSON or damaged.
std::optional<json> parse_line(const std::string& text, std::size_t begin, std::size_t& end) {
  const std::size_t line_end = text.find('\n', begin);
  if (line_end == std::string::npos) return std::nullopt;
  end = line_end + 1;
  json line = json::parse(text.begin() + static_cast<std::ptrdiff_t>(begin),
                          text.begin() + static_cast<std::ptrdiff_t>(line_end), nullptr, /*allow_exceptions=*/false);
  if (!line.is_object() || !line.contains("xxh3")) return std::nullopt;
  const json hash = line["xxh3"];
  line.erase("xxh3");
  if (hash != hash_of(line)) return std::nullopt;
  return line;
}

}  // namespace

InputFile describe_input(const std::string& path) {
  struct stat status {};
  check_system(::stat(path.c_str(), &status) == 0, "{}: cannot be read", path);
  return {path, status.st_size, status.st_mtim.tv_sec * 1'000'000'000 + status.st_mtim.tv_nsec};
}

TokenizeJournal::TokenizeJournal(const std::string& prefix, Notice notice)
    : prefix_(token_file_prefix(prefix)),
      notice_(std::move(notice)),
      file_(prefix_ + ".journal", [&] { say(fmt::format("waiting for another process that writes {}", prefix_)); }) {}

void TokenizeJournal::say(const std::string& line) const {
  if (notice_) notice_(line);
}

void TokenizeJournal::begin_anew(const std::string& identity) {
  num_begun_ = 0;
  file_.begin(head_line(identity));
}

TokenizeState TokenizeJournal::resume(const std::string& identity, const std::vector<InputFile>& files,
                                      std::int64_t vocabulary_size, bool has_mask) {
  const std::string text = file_.text();
  const std::string& path = file_.path();
  const std::string head = head_line(identity);
  if (!text.starts_with(head)) {
    if (!text.empty()) say(fmt::format("{}: is of another tokenizer, format, field or version: beginning anew", path));
    begin_anew(identity);
    return {};
  }
  TokenizeState last;
  std::uint64_t digest = 0;
  std::size_t kept = head.size();
  std::int64_t begun = 0;
  std::string changed;
  for (std::size_t end = kept; const auto line = parse_line(text, kept, end);) {
    try {
      for (const json& file : line->at("begun")) {
        const InputFile was{file.at(0).get<std::string>(), file.at(1).get<std::int64_t>(),
                            file.at(2).get<std::int64_t>()};
        if (begun >= static_cast<std::int64_t>(files.size()) || files[begun] != was) changed = was.path;
        if (!changed.empty()) break;
        ++begun;
      }
      if (!changed.empty()) break;
      const TokenizeState state = state_of(*line);
      if (begun_in(state) != begun) break;  // not ours
      digest = line->at("tokens_xxh3").get<std::uint64_t>();
      last = state;
    } catch (const std::exception&) {  // a damaged line ends what is known
      break;
    }
    num_begun_ = begun;
    kept = end;
  }
  const char* going_on = num_begun_ > 0 ? "going on before it" : "beginning anew";
  if (changed.empty() && text.find('\n', kept) != std::string::npos)
    say(fmt::format("{}: is damaged after {} bytes: {}", path, kept, going_on));
  if (!changed.empty())
    say(fmt::format("{}: has changed since the tokenizing that was interrupted: {}", changed, going_on));
  if (last.counts.documents > 0 &&
      !TokenFileWriter::can_continue(prefix_, vocabulary_size, {last.counts.documents, last.counts.tokens}, digest,
                                     has_mask)) {
    say(fmt::format("{}.bin.partial: is damaged, it is not what {} says: beginning anew", prefix_, path));
    begin_anew(identity);
    return {};
  }
  file_.keep(kept);
  return last;
}

void TokenizeJournal::append(const TokenizeState& state, const std::vector<InputFile>& files, std::uint64_t digest) {
  json line = to_json(state);
  line["tokens_xxh3"] = digest;
  line["begun"] = json::array();
  for (; num_begun_ < begun_in(state); ++num_begun_) {
    const InputFile& file = files[num_begun_];
    line["begun"].push_back({file.path, file.bytes, file.time});
  }
  line["xxh3"] = hash_of(line);
  file_.append(dump(line) + "\n", JournalFile::Sync::Yes);
}

void TokenizeJournal::remove() { file_.remove(); }

}  // namespace limbeck::data
