#include "launch/report/report.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <set>
#include <vector>

#include "core/error.h"
#include "data/files/atomic_file.h"
#include "data/files/file_kind.h"
#include "launch/commands/commands.h"
#include "launch/commands/may_write.h"
#include "launch/console/log.h"
#include "launch/console/progress.h"
#include "launch/console/streams.h"
#include "launch/report/distill_report.h"
#include "launch/report/heat_map.h"
#include "launch/report/html.h"
#include "launch/report/plot.h"
#include "launch/run/run_record.h"

namespace limbeck::launch {

namespace fs = std::filesystem;

namespace {

constexpr double gib = 1024.0 * 1024 * 1024;
constexpr std::uintmax_t most_config_bytes = std::uintmax_t{1} << 24U;

/// All that is known of a run.
struct Run {
  std::string name;
  std::string config_text;
  RunConfig config;
  RunRecord record;
  std::optional<DistillStart> start;
  std::optional<RunEnd> end;
  std::optional<Evaluation> after;  // the last that is known
  std::int64_t after_step = 0;

  bool is_finished() const { return end && end->step >= record.last_step; }
  bool has_before() const { return start && start->student.tokens > 0; }
  bool has_teacher() const { return (start && start->student.has_teacher()) || (after && after->has_teacher()); }
};

/// The last evaluation of the metrics.
Evaluation last_evaluation(const RunRecord& record) {
  Evaluation e;
  e.tokens = std::llround(record.last("eval_tokens"));
  e.cross_entropy = record.last("eval_ce");
  e.teacher_cross_entropy = record.last("eval_teacher_ce");
  e.kl = record.last("eval_kl");
  e.kl_median = record.last("eval_kl_median");
  e.kl_p99 = record.last("eval_kl_p99");
  e.agreement = record.last("eval_top1_agreement");
  e.sum_min = record.last("eval_sum_min");
  return e;
}

/// What was measured before the first step and after the last one, beside the evaluations of the metrics.
void add_ends(Run& run) {
  const auto add = [&](const char* field, double Evaluation::*value) {
    Series with_ends;
    if (run.has_before()) with_ends.add(0, run.start->student.*value);
    const auto found = run.record.series.find(field);
    if (found != run.record.series.end())
      for (std::size_t i = 0; i < found->second.values.size(); ++i)
        with_ends.add(found->second.steps[i], found->second.values[i]);
    const auto end = static_cast<double>(run.after_step);
    if (run.after && (with_ends.steps.empty() || with_ends.steps.back() < end)) with_ends.add(end, (*run.after).*value);
    run.record.series[field] = std::move(with_ends);
  };
  add("eval_ce", &Evaluation::cross_entropy);
  if (run.has_teacher()) {
    add("eval_kl", &Evaluation::kl);
    add("eval_kl_median", &Evaluation::kl_median);
    add("eval_kl_p99", &Evaluation::kl_p99);
    add("eval_top1_agreement", &Evaluation::agreement);
    add("eval_sum_min", &Evaluation::sum_min);
  }
  if (run.has_before()) run.record.first_step = 0;
}

Run read_run(const RunDirectory& directory) {
  if (!fs::is_regular_file(directory.config()) || !fs::is_regular_file(directory.metrics()))
    core::fail_usage("{}: is no run directory, expected {} and {} there", directory.path().string(),
                     directory.config().filename().string(), directory.metrics().filename().string());
  Run run;
  run.name = fs::canonical(directory.path()).filename().string();
  run.config_text = data::read_text_file(directory.config(), most_config_bytes);
  run.config = parse_config(run.config_text, directory.config().string());
  run.record = read_run_record(directory.metrics());
  if (fs::exists(directory.path() / "start.json")) run.start = read_start(directory.path());
  run.end = read_end(directory.path());
  if (run.is_finished()) {
    if (run.end->student.tokens > 0) run.after = run.end->student;
    run.after_step = run.end->step;
  } else if (run.record.series.contains("eval_ce")) {
    run.after = last_evaluation(run.record);
    run.after_step = std::llround(run.record.series.at("eval_ce").steps.back());
  }
  add_ends(run);
  return run;
}

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

// --- figures at the top

std::string card(const std::string& name, const std::string& value, const std::string& more) {
  return fmt::format("<div class=\"card\"><dt>{}</dt><dd>{}</dd><dd class=\"more\">{}</dd></div>\n", escape(name),
                     escape(value), escape(more));
}

/// A change of a held-out figure; nothing without a figure after.
std::string evaluation_card(const Run& run, const std::string& name, double Evaluation::*field, int digits) {
  if (!run.after) return "";
  const double after = (*run.after).*field;
  return card(
      name, fixed(after, digits),
      run.has_before() ? fmt::format("held out; {} before", fixed(run.start->student.*field, digits)) : "held out");
}

std::string cards(const Run& run) {
  const RunRecord& record = run.record;
  const auto has = [&](const char* field) {
    return record.series.contains(field) && !record.series.at(field).values.empty();
  };
  std::string html =
      card("Steps", grouped(record.last_step),
           fmt::format("of {}, {}", grouped(run.config.train.steps), run.is_finished() ? "ended" : "not ended"));
  if (has("tokens")) {
    const double tokens = record.last("tokens");
    html += card("Tokens", tokens < 1e7 ? grouped(std::llround(tokens)) : tick_text(tokens, 0.01 * tokens, tokens),
                 "trained on, with repeats");
  }
  if (has("loss"))
    html += card("Loss", fmt::format("{:.4f}", record.last("loss")),
                 fmt::format("last step; {:.4f} at step {}", record.series.at("loss").values.front(),
                             grouped(std::llround(record.series.at("loss").steps.front()))));
  const bool has_teacher = run.after && run.after->teacher_cross_entropy > 0;
  if (has_teacher) {
    html += evaluation_card(run, "KL", &Evaluation::kl, 4);
    html += evaluation_card(run, "Agreement", &Evaluation::agreement, 3);
  }
  html += evaluation_card(run, "Cross-entropy", &Evaluation::cross_entropy, 4);
  if (has("tokens_per_s"))
    html += card("Tokens/s", grouped(std::llround(median(record.series.at("tokens_per_s").values))),
                 has("mfu") ? fmt::format("median; {:.0f} % of the peak", 100 * median(record.series.at("mfu").values))
                            : "median");
  if (has("rss_bytes")) {
    const auto& bytes = record.series.at("rss_bytes").values;
    html += card("Memory", fmt::format("{:.2f} GiB", *std::max_element(bytes.begin(), bytes.end()) / gib),
                 "at the peak, first rank");
  }
  if (has("time")) {
    const auto& times = record.series.at("time").values;
    const double begin = std::clamp(times.front(), 0.0, 4e9);
    html += card("Time", duration_text(times.back() - times.front()),
                 fmt::format("from {:%Y-%m-%d %H:%M} UTC", fmt::gmtime(static_cast<std::time_t>(begin))));
  }
  return "<dl class=\"cards\">\n" + html + "</dl>\n";
}

// --- curves

/// Over the layers of each step: least, mean and greatest of a figure of the expert load.
struct OverLayers {
  Series low, mean, high;
};

OverLayers over_layers(const RunRecord& record, Series LayerLoad::*field) {
  std::map<double, std::vector<double>> by_step;
  for (const auto& [layer, load] : record.loads)
    for (std::size_t i = 0; i < (load.*field).values.size(); ++i)
      by_step[(load.*field).steps[i]].push_back((load.*field).values[i]);
  OverLayers result;
  for (const auto& [step, values] : by_step) {
    const auto [low, high] = std::minmax_element(values.begin(), values.end());
    double sum = 0;
    for (const double value : values) sum += value;
    result.low.add(step, *low);
    result.mean.add(step, sum / static_cast<double>(values.size()));
    result.high.add(step, *high);
  }
  return result;
}

class Curves {
 public:
  explicit Curves(const RunRecord& record) : record_(record) {}

  /// `fields` with their labels; those that a run does not have are left out. A field eval_x is drawn as marks.
  std::string draw(Plot plot, const std::vector<std::pair<const char*, const char*>>& fields) {
    for (const auto& [field, label] : fields) {
      const auto found = record_.series.find(field);
      if (found == record_.series.end()) continue;
      shown_.insert(field);
      plot.curves.push_back({label, &found->second, std::string_view(field).starts_with("eval_")});
    }
    return to_figure(plot, record_.first_step, record_.last_step);
  }

  /// Fields that nothing else showed, each by itself under its own name.
  std::string draw_others() {
    std::string html;
    for (const auto& [field, series] : record_.series)
      if (!shown_.contains(field))
        html += to_figure({.title = field, .curves = {{field, &series, field.starts_with("eval_")}}},
                          record_.first_step, record_.last_step);
    return html;
  }

  /// Fields that the page has in another place, or that say nothing over time.
  void leave_out(std::initializer_list<const char*> fields) { shown_.insert(fields.begin(), fields.end()); }

 private:
  const RunRecord& record_;
  std::set<std::string> shown_;
};

std::string curves(const RunRecord& record) {
  Curves curves(record);
  curves.leave_out({"time", "tokens", "eval_tokens", "eval_teacher_ce"});
  constexpr const char* nats = "nats a token";
  std::string html;
  html += curves.draw({.title = "Loss", .unit = nats}, {{"loss", "loss"}});
  html += curves.draw({.title = "KL to the teacher", .unit = nats},
                      {{"kl", "training text"}, {"eval_kl", "held out"}, {"eval_kl_median", "held out, median"}});
  html += curves.draw({.title = "Cross-entropy", .unit = nats},
                      {{"ce", "training text"}, {"eval_ce", "held out"}, {"teacher_ce", "teacher, training text"}});
  html += curves.draw({.title = "Top-1 agreement", .unit = "share of places"},
                      {{"top1_agreement", "training text"}, {"eval_top1_agreement", "held out"}});
  html +=
      curves.draw({.title = "KL to the teacher, 99 %", .unit = "held out, nats a token"}, {{"eval_kl_p99", "99 %"}});
  html += curves.draw({.title = "Acceptance", .unit = "held out, sum min(p,q)"}, {{"eval_sum_min", "acceptance"}});
  html += curves.draw({.title = "Learning rate", .is_exact = true, .from_zero = true}, {{"lr", "rate"}});
  html +=
      curves.draw({.title = "Gradient norm", .unit = "before clipping", .may_be_log = true}, {{"grad_norm", "norm"}});
  html += curves.draw({.title = "Speed", .unit = "tokens a second", .from_zero = true}, {{"tokens_per_s", "speed"}});
  html +=
      curves.draw({.title = "Use of the machine", .unit = "% of its measured peak", .scale = 100, .from_zero = true},
                  {{"mfu", "use"}});
  html += curves.draw(
      {.title = "Memory", .unit = "GiB at the peak, first rank", .is_exact = true, .scale = 1 / gib, .from_zero = true},
      {{"rss_bytes", "memory"}});
  html += curves.draw({.title = "Router losses", .unit = "weighted", .may_be_log = true},
                      {{"balance_loss", "balance"}, {"z_loss", "z"}});
  html += load_map(record.loads);
  const OverLayers entropy = over_layers(record, &LayerLoad::entropy);
  html += to_figure({.title = "Expert load: entropy",
                     .unit = "1: all experts alike",
                     .curves = {{"mean of the layers", &entropy.mean}},
                     .band_low = &entropy.low,
                     .band_high = &entropy.high},
                    record.first_step, record.last_step);
  const OverLayers least = over_layers(record, &LayerLoad::min);
  const OverLayers most = over_layers(record, &LayerLoad::max);
  html += to_figure({.title = "Expert load: shares",
                     .unit = "of a layer's assignments, over all layers",
                     .curves = {{"most used expert", &most.high}, {"least used expert", &least.low}},
                     .from_zero = true},
                    record.first_step, record.last_step);
  const OverLayers drops = over_layers(record, &LayerLoad::drops);
  if (std::any_of(drops.high.values.begin(), drops.high.values.end(), [](double n) { return n > 0; }))
    html += to_figure({.title = "Expert load: drops",
                       .unit = "assignments above the experts' capacity",
                       .curves = {{"mean of the layers", &drops.mean}},
                       .band_low = &drops.low,
                       .band_high = &drops.high,
                       .from_zero = true},
                      record.first_step, record.last_step);
  html += curves.draw_others();
  const std::size_t window =
      record.series.contains("loss") ? smoothing_window(record.series.at("loss").values.size()) : 1;
  const std::string note =
      window > 1 ? fmt::format("Lines: means over {} steps; faint: each step. ", window) : std::string();
  return fmt::format(
      "<h2>Curves</h2>\n<p class=\"note\">{}Points: the held-out sample.</p>\n<div class=\"grid\">\n{}</div>\n", note,
      html);
}

// --- the held-out table and the continuations

std::string table(const Run& run) {
  if (!run.after && !run.has_before()) return "";
  const Evaluation none;
  const Evaluation& after = run.after ? *run.after : none;
  const bool has_teacher = run.has_teacher();
  const bool has_unigram = run.start && run.start->unigram.tokens > 0;
  std::string html = "<thead><tr><th></th>";
  if (has_teacher) html += "<th>teacher</th>";
  if (run.has_before()) html += "<th>before</th>";
  if (run.after) html += fmt::format("<th>step {}</th>", grouped(run.after_step));
  if (has_unigram) html += "<th>unigram</th>";
  html += "</tr></thead>\n<tbody>\n";
  const auto row = [&](const char* name, double Evaluation::*field, const std::string& teacher) {
    html += fmt::format("<tr><th>{}</th>", name);
    if (has_teacher) html += fmt::format("<td>{}</td>", teacher);
    if (run.has_before()) html += fmt::format("<td>{:.4f}</td>", run.start->student.*field);
    if (run.after) html += fmt::format("<td>{:.4f}</td>", after.*field);
    if (has_unigram) html += fmt::format("<td>{:.4f}</td>", run.start->unigram.*field);
    html += "</tr>\n";
  };
  const Evaluation& of_teacher = run.has_before() ? run.start->student : after;
  row("cross-entropy", &Evaluation::cross_entropy, fmt::format("{:.4f}", of_teacher.teacher_cross_entropy));
  if (has_teacher) {
    row("KL to the teacher, mean", &Evaluation::kl, "");
    row("KL, median", &Evaluation::kl_median, "");
    row("KL, 99 %", &Evaluation::kl_p99, "");
    row("top-1 agreement", &Evaluation::agreement, "");
    row("sum min(p,q), acceptance", &Evaluation::sum_min, "");
  }
  return fmt::format(
      "<h2>Held-out sample</h2>\n<p class=\"note\">{} tokens that were never trained on.</p>\n<div "
      "class=\"scroll\"><table>\n{}</tbody></table></div>\n",
      grouped(run.after ? after.tokens : run.start->student.tokens), html);
}

std::string continuations(const Run& run) {
  const std::string& prompt = run.config.generation.prompt;
  if (prompt.empty() || !run.start) return "";
  std::string html = fmt::format("<h2>“{}” goes on</h2>\n<div class=\"grid\">\n", escape(prompt));
  const auto quote = [&](const std::string& who, const std::string& text) {
    html += fmt::format("<figure><figcaption><b>{}</b></figcaption><blockquote>{}</blockquote></figure>\n", who,
                        escape(text));
  };
  if (!run.start->teacher_text.empty()) quote("by the teacher", run.start->teacher_text);
  if (!run.start->student_text.empty()) quote("by the student before", run.start->student_text);
  if (run.is_finished())
    quote(fmt::format("by the student after step {}", grouped(run.end->step)), run.end->student_text);
  return html + "</div>\n";
}

}  // namespace

/// By which a page is known that may be written over.
constexpr const char* page_mark = R"(<meta name="generator" content="Limbeck" />)";

bool is_page(const fs::path& file) {
  return data::head_of_file(file).value_or("").find(page_mark) != std::string::npos;
}

std::string report_page(const RunDirectory& directory) {
  const Run run = read_run(directory);
  const std::string name = escape(run.name);
  const char* kind = run.config.teacher ? "distillation" : "training";
  std::string subtitle = fmt::format("Limbeck {}", kind);
  if (run.config.teacher) subtitle += fmt::format(" from {}", escape(run.config.teacher->source));
  std::string html = fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\" xmlns=\"http://www.w3.org/1999/xhtml\">\n<head>\n<meta charset=\"utf-8\" "
      "/>\n{}\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\" />\n"
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
      "script-src "
      "'unsafe-inline'\" />\n<title>{} · {}</title>\n<style>{}</style>\n</head>\n<body>\n<header>\n<h1>{}</h1>\n"
      "<p class=\"note\">{}</p>\n</header>\n",
      page_mark, name, kind, report_style, name, subtitle);
  html += cards(run) + curves(run.record) + table(run) + continuations(run);
  html += fmt::format("<details><summary>Configuration, as resolved</summary><pre>{}</pre></details>\n",
                      escape(run.config_text));
  html += fmt::format(
      "<footer>Written by limbeck {} from metrics.jsonl{}.</footer>\n<script>{}</script>\n</body>\n</html>\n",
      LIMBECK_VERSION, run.record.is_whole ? "" : "; its last line, half written, is left out", report_script);
  return html;
}

int run_report(const ReportOptions& options) {
  if (is_left_to_first_rank("report")) return 0;
  const fs::path file = options.out.value_or(options.run / "report.html");
  if (!is_page(file))
    check_may_write(file, options.force, files_of_model(options.run));  // a page is written anew while its run goes on
  const std::string page = report_page(RunDirectory(options.run));
  data::write_file_atomically(file, page);
  print_result("{}: {:.0f} kB\n", file.string(), static_cast<double>(page.size()) / 1000);
  return 0;
}

}  // namespace limbeck::launch
