#include "launch/report/report_sections.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "core/counted.h"
#include "launch/console/numbers.h"
#include "launch/console/progress.h"
#include "launch/report/communication.h"
#include "launch/report/comparison.h"
#include "launch/report/html.h"
#include "launch/report/plot.h"
#include "launch/run/known_teacher.h"

namespace limbeck::launch {

namespace {

constexpr double gib = 1024.0 * 1024 * 1024;

const Series* series_of(const RunRecord& record, const char* field) {
  const auto found = record.series.find(field);
  return found == record.series.end() || found->second.values.empty() ? nullptr : &found->second;
}

std::string date_text(double seconds) {
  return fmt::format("{:%Y-%m-%d %H:%M} UTC", fmt::gmtime(static_cast<std::time_t>(std::clamp(seconds, 0.0, 4e9))));
}

std::string card(const std::string& name, const std::string& value, const std::string& more) {
  return fmt::format("<div class=\"card\"><dt>{}</dt><dd>{}</dd><dd class=\"more\">{}</dd></div>\n", escape(name),
                     escape(value), escape(more));
}

/// A held-out figure and what it was before, with a mark for what is a bound or an estimate; nothing without one after.
std::string evaluation_card(const RunResults& run, const char* name, const char* figure, int digits,
                            const std::string& mark = "") {
  const auto after = run.after ? run.after->figure(figure) : std::nullopt;
  if (!after) return "";
  const auto before = run.before ? run.before->figure(figure) : std::nullopt;
  return card(name, mark + fixed(*after, digits),
              before ? fmt::format("held out; {}{} before", mark, fixed(*before, digits)) : "held out");
}

/// By what is known of the teacher.
std::string kl_card(const RunResults& run) {
  std::string html;
  for (const Known known : all_known) {
    const TeacherFigureNames names = names_of(known);
    html += evaluation_card(run, "KL", names.kl, 4, names.kl_mark);
  }
  return html;
}

std::string layout_text(const RunStarted& s) {
  if (s.teacher_layout.empty()) return s.layout;
  return s.teacher_ranks == 0 ? fmt::format("{}, the teacher's {}", s.layout, s.teacher_layout)
                              : fmt::format("{}, {} the teacher's, {}", s.layout, s.teacher_ranks, s.teacher_layout);
}

std::string model_cards(const RunResults& run) {
  std::string html;
  if (run.facts.model) {
    const ParameterFigures& p = *run.facts.model;
    std::string more = fmt::format("{} active", short_count(static_cast<double>(p.active)));
    more += p.trainable == p.total ? ", all trained"
                                   : fmt::format(", {} trained", short_count(static_cast<double>(p.trainable)));
    if (run.facts.teacher)
      more += fmt::format("; teacher {}", short_count(static_cast<double>(run.facts.teacher->total)));
    html += card("Parameters", short_count(static_cast<double>(p.total)), more);
  }
  if (!run.facts.starts.empty()) {
    const RunStarted& s = run.facts.starts.back();
    html += card("Ranks", grouped(s.ranks),
                 fmt::format("layout {}; {} each", escape(layout_text(s)), core::counted(s.threads, "thread")));
  }
  return html;
}

std::string speed_cards(const RunResults& run) {
  std::string html;
  if (const auto speed = run.tokens_per_s()) {
    const Series* use = series_of(run.record, "mfu");
    html += card("Tokens/s", grouped(std::llround(*speed)),
                 use == nullptr ? "median" : fmt::format("median; {:.0f} % of the peak", 100 * median(use->values)));
  }
  if (const auto bytes = run.peak_bytes())
    html += card("Memory", fmt::format("{:.2f} GiB", *bytes / gib), "at the peak, first rank");
  if (const auto wall = run.wall_seconds()) {
    std::string more = fmt::format("from {}", date_text(run.record.times.front().begin));
    if (const auto training = run.training_seconds()) more += fmt::format("; {} in steps", duration_text(*training));
    html += card("Time", duration_text(*wall), more);
  }
  return html;
}

/// The value of a cell, "-" where it was not measured.
std::string cell(const std::optional<double>& value) { return value ? fixed(*value, 4) : "-"; }

struct Column {
  std::string name;
  const Figures* figures;  // null: not measured
};

/// Rows of figures, by their names; those that no column has are left out.
std::string figure_rows(const std::vector<Column>& columns, const std::string& of) {
  constexpr std::array<std::pair<const char*, const char*>, 24> rows = {
      {{"ce", "cross-entropy"},
       {"perplexity", "perplexity"},
       {"bits_per_byte", "bits/byte"},
       {"ece", "calibration error"},
       {"teacher_ce", "teacher's cross-entropy"},
       {"kl", "KL to the teacher, mean"},
       {"kl_median", "KL, median"},
       {"kl_p90", "KL, 90 %"},
       {"kl_p99", "KL, 99 %"},
       {"kl_lower_bound", "KL to the teacher, at least, mean"},
       {"kl_lower_bound_median", "KL, at least, median"},
       {"kl_lower_bound_p90", "KL, at least, 90 %"},
       {"kl_lower_bound_p99", "KL, at least, 99 %"},
       {"kl_estimate", "KL to the teacher, estimate, mean"},
       {"span_kl", "KL to the teacher by span, mean"},
       {"uld", "distance of sorted distributions, mean"},
       {"teacher_bits_per_byte", "teacher's bits/byte, of the spans"},
       {"top1_agreement", "top-1 agreement"},
       {"sum_min", "sum min(p,q), acceptance"},
       {"sum_min_upper_bound", "sum min(p,q), acceptance, at most"},
       {"teacher_ece", "teacher's calibration error"},
       {"load_entropy", "expert load: entropy, mean of the layers"},
       {"load_worst_entropy", "entropy of the worst layer"},
       {"starved_experts", "starved experts"}}};
  std::string html;
  for (const auto& [figure, label] : rows) {
    std::string line;
    bool is_known = false;
    for (const Column& column : columns) {
      const auto value = column.figures == nullptr ? std::nullopt : figure_of(*column.figures, figure);
      is_known = is_known || value;
      line += fmt::format("<td>{}</td>", cell(value));
    }
    if (is_known) html += fmt::format("<tr><th>{}{}</th>{}</tr>\n", of, label, line);
  }
  return html;
}

const Figures* of_set(const std::optional<Measured>& measured, const std::string& set) {
  return measured && measured->sets.contains(set) ? &measured->sets.at(set) : nullptr;
}

std::string start_text(const RunStarted& s) {
  std::string text =
      fmt::format("From step {}, {}: {}, layout {}, {} each", grouped(s.step), date_text(s.time),
                  core::counted(s.ranks, "rank"), escape(layout_text(s)), core::counted(s.threads, "thread"));
  if (!s.host.empty()) text += fmt::format("; {}", escape(s.host));
  if (!s.processor.empty()) text += fmt::format(", {}", escape(s.processor));
  if (!s.kernels.empty()) text += fmt::format(", kernels for {}", escape(s.kernels));
  if (!s.version.empty()) text += fmt::format("; limbeck {}", escape(s.version));
  return fmt::format("<p class=\"note\">{}</p>\n<pre class=\"command\">{}</pre>\n", text, escape(s.command));
}

}  // namespace

std::string cards(const RunResults& run) {
  const RunRecord& record = run.record;
  std::string html = card("Steps", grouped(record.last_step),
                          fmt::format("of {}, {}", grouped(run.config.train.steps), name_of(run.state)));
  if (series_of(record, "tokens") != nullptr)
    html += card(
        "Tokens",
        record.last("tokens") < 1e7 ? grouped(std::llround(record.last("tokens"))) : short_count(record.last("tokens")),
        "trained on, with repeats");
  html += model_cards(run);
  if (const Series* loss = series_of(record, "loss"))
    html +=
        card("Loss", fmt::format("{:.4f}", loss->values.back()),
             fmt::format("last step; {:.4f} at step {}", loss->first_value, grouped(std::llround(loss->first_step))));
  html += kl_card(run) + evaluation_card(run, "Agreement", "top1_agreement", 3) +
          evaluation_card(run, "Cross-entropy", "ce", 4);
  html += speed_cards(run);
  return "<dl class=\"cards\">\n" + html + "</dl>\n";
}

std::string comparison(const std::vector<RunResults>& runs) {
  const Comparison both = compare_runs(runs);
  std::string head;
  for (std::size_t i = 0; i < runs.size(); ++i)
    head += fmt::format("<th><span class=\"key c{}\">{}</span></th>", i % num_colours, escape(runs[i].name));
  const auto rows = [](const std::vector<ComparisonRow>& list, const char* kind) {
    std::string html;
    for (const ComparisonRow& row : list) {
      html += fmt::format("<tr><th>{}</th>", escape(row.label));
      for (std::size_t i = 0; i < row.cells.size(); ++i)
        html += fmt::format("<td{}>{}</td>", row.is_best[i] ? " class=\"best\"" : kind, escape(row.cells[i]));
      html += "</tr>\n";
    }
    return html;
  };
  std::string html = rows(both.figures, "");
  if (!both.fields.empty())
    html += fmt::format("<tr class=\"part\"><th colspan=\"{}\">In which their configs differ</th></tr>\n{}",
                        runs.size() + 1, rows(both.fields, " class=\"text\""));
  return fmt::format(
      "<h2>Side by side</h2>\n{}<div class=\"scroll\"><table class=\"runs\">\n<thead><tr><th></th>{}</tr></thead>\n"
      "<tbody>\n{}</tbody></table></div>\n",
      both.is_of_one_sample
          ? ""
          : "<p class=\"note\">The held-out figures are not all of the same sample: the configs’ data "
            "differ.</p>\n",
      head, html);
}

std::string held_out(const RunResults& run) {
  std::vector<Column> columns;
  const auto add = [&](const std::string& name, const std::optional<Measured>& measured) {
    if (!measured) return;
    columns.push_back({name, &measured->figures});
  };
  add("before", run.before);
  add(fmt::format("step {}", grouped(run.after_step)), run.after);
  add("unigram", run.unigram);
  if (columns.empty()) return "";
  std::string head = "<th></th>";
  for (const Column& column : columns) head += fmt::format("<th>{}</th>", column.name);
  std::string html = figure_rows(columns, "");
  for (const std::string& set : run.set_names()) {
    std::vector<Column> of = columns;
    std::size_t i = 0;
    for (const auto* measured : {&run.before, &run.after, &run.unigram})
      if (*measured) of[i++].figures = of_set(*measured, set);
    html += figure_rows(of, escape(set) + ": ");
  }
  const auto tokens = (run.after ? run.after : run.before)->figure("tokens");
  return fmt::format(
      "<h2>Held-out sample</h2>\n<p class=\"note\">{}Never trained on.</p>\n<div "
      "class=\"scroll\"><table>\n<thead><tr>{}"
      "</tr></thead>\n<tbody>\n{}</tbody></table></div>\n",
      tokens ? grouped(std::llround(*tokens)) + " tokens. " : "", head, html);
}

std::string communication(const RunResults& run) {
  std::string rows;
  for (const AxisCommunication& axis : communication_of(run.record)) {
    rows += fmt::format("<tr><th>{}</th>", escape(axis.axis));
    for (const std::string& cell : cells_of(axis)) rows += fmt::format("<td>{}</td>", cell);
    rows += "</tr>\n";
  }
  if (rows.empty()) return "";
  std::string head = "<th></th>";
  for (const char* name : communication_columns) head += fmt::format("<th>{}</th>", name);
  return fmt::format(
      "<h2>Communication by axis</h2>\n<p class=\"note\">A step, mean of all steps: bytes for ranks of its node and "
      "of others, and the time for which a rank waited for others; of each the rank with most.</p>\n"
      "<div class=\"scroll\"><table>\n<thead><tr>{}</tr></thead>\n<tbody>\n{}</tbody></table></div>\n",
      head, rows);
}

std::string continuations(const std::vector<RunResults>& runs) {
  std::vector<std::pair<std::string, std::string>> prompts;  // and how they go on
  for (const RunResults& run : runs) {
    const std::string& prompt = run.config.generation.prompt;
    if (prompt.empty()) continue;
    const std::string of = runs.size() > 1 ? escape(run.name) + ", " : "";
    const char* model = run.config.teacher ? "student" : "model";
    std::string quotes;
    const auto quote = [&](const std::string& who, const std::string& text) {
      if (text.empty()) return;
      quotes += fmt::format("<figure><figcaption><b>{}by the {}</b></figcaption><blockquote>{}</blockquote></figure>\n",
                            of, who, escape(text));
    };
    quote("teacher", run.teacher_text);
    quote(fmt::format("{} before", model), run.text_before);
    quote(fmt::format("{} after step {}", model, grouped(run.after_step)), run.text_after);
    if (quotes.empty()) continue;
    auto there = std::find_if(prompts.begin(), prompts.end(), [&](const auto& pair) { return pair.first == prompt; });
    if (there == prompts.end()) there = prompts.insert(there, {prompt, ""});
    there->second += quotes;
  }
  std::string html;
  for (const auto& [prompt, quotes] : prompts)
    html += fmt::format("<h2>“{}” goes on</h2>\n<div class=\"grid\">\n{}</div>\n", escape(prompt), quotes);
  return html;
}

std::string details(const std::vector<RunResults>& runs) {
  std::string html;
  for (const RunResults& run : runs) {
    const std::string of = runs.size() > 1 ? fmt::format(": {}", escape(run.name)) : "";
    std::string starts;
    for (const RunStarted& start : run.facts.starts) starts += start_text(start);
    if (!starts.empty())
      html += fmt::format("<details><summary>How it was started{}</summary>{}</details>\n", of, starts);
    html += fmt::format("<details><summary>Configuration, as resolved{}</summary><pre>{}</pre></details>\n", of,
                        escape(run.config_text));
  }
  return html;
}

}  // namespace limbeck::launch
