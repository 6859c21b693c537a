#include "launch/report/distill_report.h"

#include <nlohmann/json.hpp>

#include "data/files/atomic_file.h"
#include "data/files/json_text.h"
#include "launch/console/progress.h"
#include "launch/console/shell_quoted.h"

namespace limbeck::launch {

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Evaluation, tokens, cross_entropy, teacher_cross_entropy, kl, kl_median, kl_p99,
                                   agreement, sum_min)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(DistillStart, student, unigram, teacher_text, student_text, layers, influence,
                                   teacher)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(RunEnd, step, student, student_text)

namespace {

std::filesystem::path start_file(const std::filesystem::path& run) { return run / "start.json"; }
std::filesystem::path end_file(const std::filesystem::path& run) { return run / "end.json"; }

constexpr std::uintmax_t most_bytes = std::uintmax_t{1} << 24U;

/// Indented. A continuation may end amid a character: U+FFFD stands for what is no UTF-8.
std::string dump(const nlohmann::json& json) {
  return json.dump(1, ' ', false, nlohmann::json::error_handler_t::replace) + '\n';
}

template <class T>
T parse_as(const std::string& text, const std::string& where, const char* what) {
  try {
    auto json = data::parse_json<nlohmann::json>(text, fmt::format("{}: not the {} of a run", where, what));
    if (json.is_object()) json.emplace("teacher", "");  // where it has none
    return json.get<T>();
  } catch (const nlohmann::json::exception& e) {
    core::fail("{}: not the {} of a run: {}", where, what, data::json_reason(e));
  }
}

std::string row(const std::string& what, const std::vector<std::string>& cells) {
  std::string line = fmt::format("{:<34}", what);
  for (const std::string& cell : cells) line += fmt::format("{:>12}", cell);
  return line + '\n';
}

std::string number(double value) { return fixed(value, 4); }

/// Indented, so that a text of several lines stays apart from the rest.
std::string quoted(const std::string& text) {
  std::string result = "    ";
  for (const char c : text) {
    result += c;
    if (c == '\n') result += "    ";
  }
  return result + '\n';
}

}  // namespace

std::string to_text(const DistillStart& start) { return dump(start); }

DistillStart start_from_text(const std::string& text, const std::string& where) {
  return parse_as<DistillStart>(text, where, "start");
}

void write_start(const std::filesystem::path& run, const DistillStart& start) {
  data::write_file_atomically(start_file(run), to_text(start));
}

DistillStart read_start(const std::filesystem::path& run) {
  const std::string file = start_file(run).string();
  return start_from_text(data::read_text_file(file, most_bytes), file);
}

void write_end(const std::filesystem::path& run, const RunEnd& end) {
  data::write_file_atomically(end_file(run), dump(end));
}

std::optional<RunEnd> read_end(const std::filesystem::path& run) {
  const std::string file = end_file(run).string();
  if (!std::filesystem::exists(file)) return std::nullopt;
  return parse_as<RunEnd>(data::read_text_file(file, most_bytes), file, "end");
}

std::string to_text(const DistillReport& r) {
  const Evaluation& before = r.start.student;
  const Evaluation& after = r.student;
  std::string text = fmt::format("\nHeld-out sample: {} tokens\n\n", after.tokens);
  text += row("", {"teacher", "before", "after", "unigram"});
  text += row("cross-entropy", {number(after.teacher_cross_entropy), number(before.cross_entropy),
                                number(after.cross_entropy), number(r.start.unigram.cross_entropy)});
  text += row("KL to the teacher, mean", {"", number(before.kl), number(after.kl), number(r.start.unigram.kl)});
  text += row("  median", {"", number(before.kl_median), number(after.kl_median), number(r.start.unigram.kl_median)});
  text += row("  99 %", {"", number(before.kl_p99), number(after.kl_p99), number(r.start.unigram.kl_p99)});
  text += row("top-1 agreement",
              {"", number(before.agreement), number(after.agreement), number(r.start.unigram.agreement)});
  text += row("sum min(p,q) (acceptance)",
              {"", number(before.sum_min), number(after.sum_min), number(r.start.unigram.sum_min)});
  text += fmt::format(
      "\n{:.0f} tokens/s in training, {:.0f} % of the machine's measured peak; peak memory {:.2f} GiB a rank, {} "
      "rank{}\n",
      r.throughput.tokens_per_s, 100 * r.throughput.mfu,
      static_cast<double>(r.peak_bytes_a_rank) / (1024.0 * 1024 * 1024), r.num_ranks, r.num_ranks == 1 ? "" : "s");
  if (!r.prompt.empty()) {
    text +=
        fmt::format("\n\"{}\" goes on\n  by the teacher:\n{}  by the student before:\n{}  by the student after:\n{}",
                    r.prompt, quoted(r.start.teacher_text), quoted(r.start.student_text), quoted(r.student_text));
  }
  text += fmt::format(
      "\nThe student: {0}\nNext:\n"
      "  {1} generate {2} --prompt \"...\"\n"
      "  {1} eval {2}\n"
      "  {1} report {2}               (curves, as one web page)\n"
      "  {1} convert {2} DIR          (a directory for transformers, or FILE.gguf for llama.cpp)\n",
      r.checkpoint.string(), shell_path(r.program), shell_path(r.run.string()));
  return text;
}

std::string continuation_text(const std::string& prompt, const std::string& continuation) {
  return prompt.empty() ? "" : fmt::format("\n\"{}\" goes on\n{}", prompt, quoted(continuation));
}

std::string to_text(const Evaluation& e, const std::string& column) {
  std::string text = row("", {column});
  text += row("tokens", {fmt::format("{}", e.tokens)});
  text += row("cross-entropy", {number(e.cross_entropy)});
  if (e.teacher_cross_entropy <= 0) return text;
  text += row("teacher's cross-entropy", {number(e.teacher_cross_entropy)});
  text += row("KL to the teacher, mean", {number(e.kl)});
  text += row("  median", {number(e.kl_median)});
  text += row("  99 %", {number(e.kl_p99)});
  text += row("top-1 agreement", {number(e.agreement)});
  text += row("sum min(p,q) (acceptance)", {number(e.sum_min)});
  return text;
}

}  // namespace limbeck::launch
