#include "launch/report/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "core/error.h"
#include "data/files/atomic_file.h"
#include "data/files/file_kind.h"
#include "launch/commands/commands.h"
#include "launch/commands/may_write.h"
#include "launch/console/log.h"
#include "launch/console/streams.h"
#include "launch/report/html.h"
#include "launch/report/planned_beside.h"
#include "launch/report/report_curves.h"
#include "launch/report/report_sections.h"

namespace limbeck::launch {

namespace fs = std::filesystem;

namespace {

/// By which a page is known that may be written over.
constexpr const char* page_mark = R"(<meta name="generator" content="Limbeck" />)";

bool is_page(const fs::path& file) {
  return data::head_of_file(file).value_or("").find(page_mark) != std::string::npos;
}

std::string title_of(const std::vector<RunResults>& runs) {
  return runs.size() == 1 ? escape(runs[0].name) : fmt::format("{} runs", runs.size());
}

std::string subtitle_of(const std::vector<RunResults>& runs) {
  if (runs.size() > 1) {
    std::string names;
    for (const RunResults& run : runs)
      names +=
          fmt::format("{}{} ({}, {})", names.empty() ? "" : " · ", escape(run.name), kind_of(run), state_text(run));
    return names;
  }
  const RunConfig& config = runs[0].config;
  return fmt::format("Limbeck {}{}", kind_of(runs[0]),
                     config.teacher ? fmt::format(" from {}", escape(config.teacher->source)) : "");
}

std::string head_of(const std::string& title, const std::string& kind, const std::string& subtitle,
                    const PageParts& parts) {
  return fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\" xmlns=\"http://www.w3.org/1999/xhtml\">\n<head>\n<meta charset=\"utf-8\" "
      "/>\n{}\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\" />\n"
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; {}style-src 'unsafe-inline'; "
      "script-src 'unsafe-inline'\" />\n<title>{} · {}</title>\n<style>{}</style>\n</head>\n<body>\n<header>\n"
      "<h1>{}</h1>\n<p class=\"note\">{}</p>\n</header>\n{}",
      page_mark, parts.policy, title, kind, report_style, title, subtitle, parts.section);
}

/// Scripts, and the end of a page.
std::string end_of(const std::vector<const char*>& scripts) {
  std::string end;
  for (const char* script : scripts)
    if (*script != '\0') end += fmt::format("<script>{}</script>\n", script);
  return end + "</body>\n</html>\n";
}

/// Where the page goes: into the one run's folder, or, of several, into the current one.
fs::path file_of(const ReportOptions& options) {
  return options.out.value_or(options.runs.size() == 1 ? options.runs[0] / "report.html" : "comparison.html");
}

}  // namespace

std::vector<std::string> names_apart(const std::vector<fs::path>& paths) {
  std::multiset<std::string> all;
  for (const fs::path& path : paths) all.insert(name_of_run(path));
  std::vector<std::string> names;
  for (const fs::path& path : paths)
    names.push_back(all.count(name_of_run(path)) > 1 ? path.string() : name_of_run(path));
  return names;
}

std::vector<RunResults> read_runs(const std::vector<fs::path>& paths) {
  std::vector<RunResults> runs;
  for (const fs::path& path : paths) runs.push_back(read_run(RunDirectory(path)));
  const std::vector<std::string> names = names_apart(paths);
  for (std::size_t i = 0; i < runs.size(); ++i) runs[i].name = names[i];
  return runs;
}

std::string empty_page(const std::string& title, const std::string& why, const PageParts& parts) {
  return head_of(escape(title), "Limbeck", escape(why), parts) + end_of({parts.script.c_str()});
}

std::string report_page(const std::vector<RunResults>& runs, const PageParts& parts) {
  for (const RunResults& run : runs)
    core::check(!run.record.is_empty(), "{}: has no line yet, expected one for each step done",
                RunDirectory(run.path).metrics().string());
  std::string html = head_of(title_of(runs), runs.size() == 1 ? kind_of(runs[0]) : "Limbeck", subtitle_of(runs), parts);
  html += runs.size() == 1 ? cards(runs[0]) : comparison(runs);
  html += draw_curves(runs);
  if (runs.size() == 1) html += held_out(runs[0]) + communication(runs[0]) + parts.planned;
  html += continuations(runs) + details(runs);
  const bool is_whole =
      std::all_of(runs.begin(), runs.end(), [](const RunResults& run) { return run.record.is_whole; });
  html += fmt::format("<footer>Written by limbeck {} from metrics.jsonl{}.</footer>\n", LIMBECK_VERSION,
                      is_whole ? "" : "; a last line, half written, is left out");
  return html + runs_data(runs) + end_of({report_script, parts.script.c_str()});
}

int run_report(const ReportOptions& options) {
  if (is_left_to_first_rank("report")) return 0;
  const fs::path file = file_of(options);
  std::vector<fs::path> read;
  for (const fs::path& run : options.runs)
    for (const fs::path& path : files_of_model(run)) read.push_back(path);
  if (!is_page(file)) check_may_write(file, options.force, read);  // a page is written anew while its run goes on
  std::optional<Cluster> cluster;
  if (options.cluster) cluster = load_cluster(*options.cluster);
  const std::vector<RunResults> runs = read_runs(options.runs);
  PageParts parts;
  if (runs.size() == 1) parts.planned = planned_beside_measured(runs[0], cluster, make_log(0, options.verbosity));
  const std::string page = report_page(runs, parts);
  data::write_file_atomically(file, page);
  print_result("{}: {:.0f} kB\n", file.string(), static_cast<double>(page.size()) / 1000);
  return 0;
}

}  // namespace limbeck::launch
