#include "launch/report/distill_report.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/counted.h"
#include "data/files/atomic_file.h"
#include "data/files/json_text.h"
#include "launch/console/numbers.h"
#include "launch/console/progress.h"
#include "launch/console/shell_quoted.h"
#include "launch/report/text_report.h"
#include "launch/run/evaluation_json.h"
#include "launch/run/run_facts.h"

namespace limbeck::launch {

namespace {

using Json = nlohmann::ordered_json;

/// What there is of "student" and "sets".
void add_measurement(Json& json, const Evaluation& student, const NamedEvaluations& sets) {
  if (student.tokens > 0) json["student"] = evaluation_to_json(student);
  if (!sets.empty()) json["sets"] = sets_to_json(sets);
}

void read_measurement(const Json& json, Evaluation& student, NamedEvaluations& sets) {
  if (json.contains("student")) student = evaluation_from_json(json.at("student"));
  if (json.contains("sets")) sets = sets_from_json(json.at("sets"));
}

void add_text(Json& json, const char* name, const std::string& text) {
  if (!text.empty()) json[name] = text;
}

void add_number(Json& json, const char* name, const std::optional<double>& number) {
  if (number) json[name] = *number;
}

std::optional<double> number_of(const Json& json, const char* name) {
  return json.contains(name) ? std::optional(json.at(name).get<double>()) : std::nullopt;
}

void add_cut(Json& json, const StudentStart& cut) {
  if (!cut.layers.empty()) json["layers"] = cut.layers;
  if (!cut.influence.empty()) json["influence"] = cut.influence;
  for (const nn::DroppedLayer& d : cut.dropped) json["dropped"].push_back({{"layer", d.layer}, {"kl", d.kl}});
  if (!cut.experts.empty()) json["experts"] = cut.experts;
  if (!cut.activity.is_empty()) {
    Json& kept = json["kept_activity"] = Json::object();
    add_number(kept, "neurons", cut.activity.neurons);
    add_number(kept, "kv_heads", cut.activity.kv_heads);
    add_number(kept, "channels", cut.activity.channels);
  }
  if (cut.vocabulary > 0) json["vocabulary"] = cut.vocabulary;
  if (cut.calibration.tokens > 0) json["calibration"] = evaluation_to_json(cut.calibration);
}

void read_cut(const Json& json, StudentStart& cut) {
  cut.layers = json.value("layers", cut.layers);
  cut.influence = json.value("influence", cut.influence);
  for (const Json& d : json.value("dropped", Json::array()))
    cut.dropped.push_back({d.at("layer").get<std::int64_t>(), d.at("kl").get<double>()});
  cut.experts = json.value("experts", cut.experts);
  const Json kept = json.value("kept_activity", Json::object());
  cut.activity = {number_of(kept, "neurons"), number_of(kept, "kv_heads"), number_of(kept, "channels")};
  cut.vocabulary = json.value("vocabulary", cut.vocabulary);
  if (json.contains("calibration")) cut.calibration = evaluation_from_json(json.at("calibration"));
}

}  // namespace

void to_json(Json& json, const DistillStart& start) {
  json = Json::object();
  add_measurement(json, start.student, start.sets);
  if (start.unigram.tokens > 0) json["unigram"] = evaluation_to_json(start.unigram);
  add_text(json, "teacher_text", start.teacher_text);
  add_text(json, "student_text", start.student_text);
  add_cut(json, start.cut);
  add_text(json, "teacher", start.teacher);
}

void from_json(const Json& json, DistillStart& start) {
  read_measurement(json, start.student, start.sets);
  if (json.contains("unigram")) start.unigram = evaluation_from_json(json.at("unigram"));
  start.teacher_text = json.value("teacher_text", "");
  start.student_text = json.value("student_text", "");
  read_cut(json, start.cut);
  start.teacher = json.value("teacher", "");
}

std::vector<std::string> to_lines(const StudentStart& start) {
  std::vector<std::string> lines, each;
  for (const nn::DroppedLayer& d : start.dropped) each.push_back(fmt::format("{} without {}", fixed(d.kl, 4), d.layer));
  if (!each.empty())
    lines.push_back(fmt::format("layers were dropped one after another, KL {}", fmt::join(each, ", ")));
  if (!start.layers.empty())
    lines.push_back(fmt::format("the student keeps the teacher's layers {}", fmt::join(start.layers, " ")));
  if (const auto layer = std::ranges::find_if(start.experts, [](const auto& groups) { return !groups.empty(); });
      layer != start.experts.end()) {
    std::size_t members = 0;
    for (const auto& group : *layer) members += group.size();
    const auto experts = [](std::size_t n) { return core::counted(static_cast<std::int64_t>(n), "expert"); };
    lines.push_back(layer->size() == members
                        ? fmt::format("{} of the teacher's stay in each layer", experts(members))
                        : fmt::format("of {} of the teacher's in each layer {} {} made", experts(members),
                                      layer->size(), layer->size() == 1 ? "feed-forward is" : "are"));
  }
  each.clear();
  for (const auto& [name, share] :
       {std::pair("neurons", start.activity.neurons), std::pair("key/value heads", start.activity.kv_heads),
        std::pair("channels", start.activity.channels)})
    if (share) each.push_back(fmt::format("{:.3f} of that of the {}", *share, name));
  if (!each.empty()) lines.push_back(fmt::format("of the activity stays {}", fmt::join(each, ", ")));
  const Evaluation& moved = start.calibration;
  if (moved.tokens > 0)
    lines.push_back(
        fmt::format("cut from the teacher, before it learns: KL {}, top-1 agreement {:.3f}, on {} of the "
                    "training text",
                    fixed(moved.kl, 4), moved.agreement, core::counted(moved.tokens, "token")));
  return lines;
}

namespace {

constexpr std::array<const char*, 3> names_of_ends = {"train.steps", "train.stop_after_evaluations_without_gain",
                                                      "--steps"};

}  // namespace

const char* name_of(EndedBy why) { return names_of_ends.at(static_cast<std::size_t>(why)); }

std::optional<EndedBy> ended_by_from(std::string_view name) {
  const auto* found = std::find(names_of_ends.begin(), names_of_ends.end(), name);
  if (found == names_of_ends.end()) return std::nullopt;
  return static_cast<EndedBy>(found - names_of_ends.begin());
}

void to_json(Json& json, const RunEnd& end) {
  json = {{"step", end.step}, {"ended_by", name_of(end.ended_by)}};
  add_measurement(json, end.student, end.sets);
  add_text(json, "student_text", end.student_text);
  if (end.best) json["best"] = to_json(*end.best);
}

namespace {

std::filesystem::path start_file(const std::filesystem::path& run) { return run / "start.json"; }
std::filesystem::path end_file(const std::filesystem::path& run) { return run / "end.json"; }

constexpr std::uintmax_t most_bytes = std::uintmax_t{1} << 24U;

/// Indented. A continuation may end amid a character: U+FFFD stands for what is no UTF-8.
std::string dump(const Json& json) { return json.dump(1, ' ', false, nlohmann::json::error_handler_t::replace) + '\n'; }

template <class T>
T parse_as(const std::string& text, const std::string& where, const char* what) {
  try {
    auto json = data::parse_json<Json>(text, fmt::format("{}: not the {} of a run", where, what));
    return with_present_names(std::move(json)).get<T>();
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
std::string number(const std::optional<double>& value) { return value ? number(*value) : ""; }
std::string perplexity(const Evaluation& e) { return fmt::format("{:.5g}", e.perplexity()); }

/// The rows of the experts' load, and of what it is where they choose tokens; nothing where no column has one.
std::string load_rows(const std::vector<const Evaluation*>& columns) {
  const auto first =
      std::ranges::find_if(columns, [](const Evaluation* e) { return e != nullptr && e->load.has_value(); });
  if (first == columns.end()) return "";
  const auto cells = [&](auto Evaluation::*member, auto value) {
    std::vector<std::string> result;
    for (const Evaluation* e : columns) result.push_back(e != nullptr && e->*member ? value(*(e->*member)) : "");
    return result;
  };
  const auto of_load = [&](auto value) { return cells(&Evaluation::load, value); };
  std::string rows =
      row("expert load: entropy, mean", of_load([](const ModelLoad& l) { return number(l.mean_entropy); })) +
      row("  of the worst layer", of_load([](const ModelLoad& l) { return number(l.worst_entropy); })) +
      row(fmt::format("  starved experts, of {}", (*first)->load->num_experts),
          of_load([](const ModelLoad& l) { return fmt::format("{}", l.num_starved); }));
  if (std::ranges::none_of(columns, [](const Evaluation* e) { return e != nullptr && e->choice; })) return rows;
  const auto of_choice = [&](auto value) { return cells(&Evaluation::choice, value); };
  return rows +
         row("where experts choose: cross-entropy",
             of_choice([](const ChoiceResult& c) { return number(c.cross_entropy); })) +
         row("  KL from there", of_choice([](const ChoiceResult& c) { return number(c.kl); }));
}

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

void write_start(const std::filesystem::path& run, const DistillStart& start) { add_to_start_file(run, Json(start)); }

DistillStart read_start(const std::filesystem::path& run) {
  const std::string file = start_file(run).string();
  return start_from_text(data::read_text_file(file, most_bytes), file);
}

void write_end(const std::filesystem::path& run, const RunEnd& end) {
  data::write_file_atomically(end_file(run), dump(end));
}

std::string to_text(const DistillReport& r) {
  const Evaluation& before = r.start.student;
  const Evaluation& after = r.student;
  std::string text = fmt::format("\nHeld-out sample: {}\n\n", core::counted(after.tokens, "token"));
  text += row("", {"teacher", "before", "after", "unigram"});
  text += row("cross-entropy", {number(after.teacher_cross_entropy), number(before.cross_entropy),
                                number(after.cross_entropy), number(r.start.unigram.cross_entropy)});
  const Evaluation teacher{.tokens = after.tokens, .cross_entropy = after.teacher_cross_entropy, .bytes = after.bytes};
  text += row("perplexity", {perplexity(teacher), perplexity(before), perplexity(after), perplexity(r.start.unigram)});
  text += row("bits/byte", {number(teacher.bits_per_byte()), number(before.bits_per_byte()),
                            number(after.bits_per_byte()), number(r.start.unigram.bits_per_byte())});
  const auto kl = [&](const char* what, auto Evaluation::*value) {
    return row(what, {"", kl_text(before, before.*value), kl_text(after, after.*value),
                      kl_text(r.start.unigram, r.start.unigram.*value)});
  };
  text += kl("KL to the teacher, mean", &Evaluation::kl);
  text += kl("  median", &Evaluation::kl_median);
  text += kl("  90 %", &Evaluation::kl_p90);
  text += kl("  99 %", &Evaluation::kl_p99);
  text += row("top-1 agreement",
              {"", number(before.agreement), number(after.agreement), number(r.start.unigram.agreement)});
  text +=
      row("sum min(p,q) (acceptance)", {"", sum_min_text(before), sum_min_text(after), sum_min_text(r.start.unigram)});
  text += row("calibration error", {number(after.teacher_calibration_error), number(before.calibration_error),
                                    number(after.calibration_error), number(r.start.unigram.calibration_error)});
  text += load_rows({nullptr, &before, &after});
  text += fmt::format(
      "\n{:.0f} tokens/s in training, {:.0f} % of the machine's measured peak; peak memory {:.2f} GiB a rank, {}\n",
      r.throughput.tokens_per_s, 100 * r.throughput.mfu,
      static_cast<double>(r.peak_bytes_a_rank) / (1024.0 * 1024 * 1024), core::counted(r.num_ranks, "rank"));
  text += sets_text(r.start.sets, r.sets);
  if (!r.prompt.empty()) {
    const std::string by_teacher = r.start.teacher_text.empty()
                                       ? std::string()
                                       : fmt::format("  by the teacher:\n{}", quoted(r.start.teacher_text));
    text += fmt::format("\n\"{}\" goes on\n{}  by the student before:\n{}  by the student after:\n{}", r.prompt,
                        by_teacher, quoted(r.start.student_text), quoted(r.student_text));
  }
  text += fmt::format(
      "\nThe student: {0}\n{3}Next:\n"
      "  {1} generate {2} --prompt \"...\"\n"
      "  {1} eval {2}\n"
      "  {1} report {2}               (curves, as one web page)\n"
      "  {1} convert {2} DIR          (a directory for transformers, or FILE.gguf for llama.cpp)\n",
      r.checkpoint.string(), shell_path(r.program), shell_path(r.run.string()), best_text(r.best, r.run));
  return text;
}

std::string continuation_text(const std::string& prompt, const std::string& continuation) {
  return prompt.empty() ? "" : fmt::format("\n\"{}\" goes on\n{}", prompt, quoted(continuation));
}

std::string to_text(const NamedEvaluations& columns) {
  const auto line = [&](const char* what, const auto& cell) {
    std::vector<std::string> cells;
    for (const auto& [name, evaluation] : columns) cells.push_back(cell(name, evaluation));
    return row(what, cells);
  };
  const auto figure = [&](const char* what, auto Evaluation::*value) {
    return line(what, [&](const std::string&, const Evaluation& e) { return number(e.*value); });
  };
  std::string text = line("", [](const std::string& name, const Evaluation&) { return name; });
  text += line("tokens", [](const std::string&, const Evaluation& e) { return fmt::format("{}", e.tokens); });
  const bool judges = !columns.empty() && columns.back().second.is_of_rewards();
  if (!judges) {
    text += figure("cross-entropy", &Evaluation::cross_entropy);
    text += line("perplexity", [](const std::string&, const Evaluation& e) { return perplexity(e); });
    text += line("bits/byte", [](const std::string&, const Evaluation& e) { return number(e.bits_per_byte()); });
    text += figure("calibration error", &Evaluation::calibration_error);
  }
  const auto part = [&](const char* what, auto Evaluation::*result, auto value) {
    return line(what,
                [&](const std::string&, const Evaluation& e) { return e.*result ? number(*(e.*result).*value) : ""; });
  };
  if (!columns.empty() && columns.back().second.preference) {
    text += part("pairs: right, share", &Evaluation::preference, &PreferenceResult::accuracy);
    text += part("  margin of rewards, mean", &Evaluation::preference, &PreferenceResult::margin);
    if (judges) text += part("  reward of the chosen", &Evaluation::preference, &PreferenceResult::chosen);
    if (judges) text += part("  reward of the rejected", &Evaluation::preference, &PreferenceResult::rejected);
    text += part("  loss", &Evaluation::preference, &PreferenceResult::loss);
  }
  if (!columns.empty() && columns.back().second.spans) {
    text += part("spans: KL to the teacher, mean", &Evaluation::spans, &SpanResult::kl);
    text += part("  bits/byte", &Evaluation::spans, &SpanResult::bits_per_byte);
    text += part("  teacher's bits/byte", &Evaluation::spans, &SpanResult::teacher_bits_per_byte);
  }
  if (!columns.empty() && columns.back().second.sorted)
    text += part("sorted distributions (ULD)", &Evaluation::sorted, &SortedResult::distance);
  std::vector<const Evaluation*> loads;
  for (const auto& [name, evaluation] : columns) loads.push_back(&evaluation);
  if (columns.empty() || !columns.front().second.has_teacher()) return text + load_rows(loads);
  text += figure("teacher's cross-entropy", &Evaluation::teacher_cross_entropy);
  const auto kl = [&](const char* what, auto Evaluation::*value) {
    return line(what, [&](const std::string&, const Evaluation& e) { return kl_text(e, e.*value); });
  };
  text += kl("KL to the teacher, mean", &Evaluation::kl);
  text += kl("  median", &Evaluation::kl_median);
  text += kl("  90 %", &Evaluation::kl_p90);
  text += kl("  99 %", &Evaluation::kl_p99);
  text += figure("top-1 agreement", &Evaluation::agreement);
  text += line("sum min(p,q) (acceptance)", [](const std::string&, const Evaluation& e) { return sum_min_text(e); });
  text += figure("teacher's calibration error", &Evaluation::teacher_calibration_error);
  return text + load_rows(loads);
}

std::string sets_text(const NamedEvaluations& before, const NamedEvaluations& after) {
  if (after.empty()) return "";
  NamedEvaluations rows;
  for (const auto& set : after) {
    const auto first =
        std::find_if(before.begin(), before.end(), [&](const auto& other) { return other.first == set.first; });
    if (first != before.end()) rows.emplace_back(set.first + ", before", first->second);
    rows.emplace_back(first != before.end() ? set.first + ", after" : set.first, set.second);
  }
  return "\nEvaluation sets:\n\n" + figures_table(rows);
}

std::string best_text(const std::optional<BestEvaluation>& best, const std::filesystem::path& run) {
  if (!best) return "";
  return fmt::format("The best by {}: {} at step {}: {}\n", best->figure, number(best->value), best->step,
                     (run / "checkpoints/best").string());
}

}  // namespace limbeck::launch
