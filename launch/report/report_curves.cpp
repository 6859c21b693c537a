#include "launch/report/report_curves.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <utility>

#include "launch/report/heat_map.h"
#include "launch/report/html.h"
#include "launch/report/plot.h"
#include "parallel/comm/traffic.h"

namespace limbeck::launch {

namespace {

constexpr double gib = 1024.0 * 1024 * 1024;

using Columns = std::map<std::string, Series>;  // all that can be drawn of a run, by field

/// A plot, with its fields and what they are called in it.
struct Fields {
  Plot plot;
  std::vector<std::pair<std::string, std::string>> fields;
};

/// What was measured before the first step and after the last one, beside the evaluations of the metrics.
void add_ends(Columns& columns, const RunResults& run) {
  const auto add = [&](const std::string& prefix, const Figures* before, const Figures* after) {
    std::set<std::string> names;
    for (const Figures* figures : {before, after})
      if (figures != nullptr)
        for (const auto& [name, _] : *figures) names.insert(name);
    for (const std::string& name : names) {
      Series with_ends;
      if (before != nullptr && before->contains(name)) with_ends.add(0, before->at(name));
      const Series& there = columns[prefix + name];
      for (std::size_t i = 0; i < there.values.size(); ++i) with_ends.add(there.steps[i], there.values[i]);
      const auto end = static_cast<double>(run.after_step);
      if (after != nullptr && after->contains(name) && (with_ends.steps.empty() || with_ends.steps.back() < end))
        with_ends.add(end, after->at(name));
      columns[prefix + name] = std::move(with_ends);
    }
  };
  add("eval_", run.before ? &run.before->figures : nullptr, run.after ? &run.after->figures : nullptr);
  std::set<std::string> sets;
  for (const auto* measured : {&run.before, &run.after})
    if (*measured)
      for (const auto& [set, _] : (*measured)->sets) sets.insert(set);
  const auto of = [](const std::optional<Measured>& measured, const std::string& set) {
    return measured && measured->sets.contains(set) ? &measured->sets.at(set) : nullptr;
  };
  for (const std::string& set : sets) add("sets." + set + ".", of(run.before, set), of(run.after, set));
}

/// Over the layers of each step: least, mean and greatest of a figure of the expert load.
void add_over_layers(Columns& columns, const RunRecord& record, const std::string& name, Series LayerLoad::*field) {
  struct Layers {
    std::vector<double> values;
    double low = std::numeric_limits<double>::infinity(), high = -low;
  };
  std::map<double, Layers> by_step;
  for (const auto& [layer, load] : record.loads) {
    const Series& series = load.*field;
    for (std::size_t i = 0; i < series.values.size(); ++i) {
      Layers& layers = by_step[series.steps[i]];
      layers.values.push_back(series.values[i]);
      layers.low = std::min(layers.low, series.low.empty() ? series.values[i] : series.low[i]);
      layers.high = std::max(layers.high, series.high.empty() ? series.values[i] : series.high[i]);
    }
  }
  for (const auto& [step, layers] : by_step) {
    double sum = 0;
    for (const double value : layers.values) sum += value / static_cast<double>(layers.values.size());
    columns[name + ".low"].add(step, layers.low);
    columns[name].add(step, sum);
    columns[name + ".high"].add(step, layers.high);
  }
}

Columns columns_of(const RunResults& run) {
  Columns columns = run.record.series;
  for (const auto& [set, figures] : run.record.sets)
    for (const auto& [name, series] : figures) columns["sets." + set + "." + name] = series;
  for (const auto& [axis, traffic] : run.record.traffic) columns["exposed_s." + axis] = traffic.exposed_s;
  add_ends(columns, run);
  add_over_layers(columns, run.record, "expert_load.entropy", &LayerLoad::entropy);
  add_over_layers(columns, run.record, "expert_load.least", &LayerLoad::min);
  add_over_layers(columns, run.record, "expert_load.most", &LayerLoad::max);
  add_over_layers(columns, run.record, "expert_load.starved", &LayerLoad::starved);
  add_over_layers(columns, run.record, "expert_load.drops", &LayerLoad::drops);
  add_over_layers(columns, run.record, "expert_load.untaken", &LayerLoad::untaken);
  const Series& drops = columns["expert_load.drops.high"];
  if (std::all_of(drops.values.begin(), drops.values.end(), [](double n) { return n <= 0; }))
    for (const char* name : {"expert_load.drops", "expert_load.drops.low", "expert_load.drops.high"})
      columns.erase(name);
  return columns;
}

std::vector<Fields> of_training() {
  constexpr const char* nats = "nats a token";
  return {
      {{.title = "Loss", .unit = nats}, {{"loss", "loss"}}},
      {{.title = "Pairs of responses", .unit = "share that is right"},
       {{"preference_accuracy", "training pairs"}, {"eval_preference_accuracy", "held out"}}},
      {{.title = "Rewards of responses", .unit = "held out"},
       {{"eval_chosen_reward", "chosen"}, {"eval_rejected_reward", "rejected"}}},
      {{.title = "KL to the teacher", .unit = nats},
       {{"kl", "training text"},
        {"eval_kl", "held out"},
        {"eval_kl_median", "held out, median"},
        {"eval_kl_lower_bound", "held out, at least"},
        {"eval_kl_lower_bound_median", "held out, at least, median"},
        {"eval_kl_estimate", "held out, estimate"}}},
      {{.title = "KL to the teacher by span", .unit = "nats a span of text"},
       {{"span_kl", "training text"}, {"eval_span_kl", "held out"}}},
      {{.title = "Distance of sorted distributions", .unit = "a pair of positions"},
       {{"uld", "training text"}, {"eval_uld", "held out"}}},
      {{.title = "Cross-entropy", .unit = nats},
       {{"ce", "training text"}, {"eval_ce", "held out"}, {"teacher_ce", "teacher, training text"}}},
      {{.title = "Perplexity", .unit = "held out", .may_be_log = true}, {{"eval_perplexity", "perplexity"}}},
      {{.title = "Bits/byte", .unit = "held out"}, {{"eval_bits_per_byte", "bits"}}},
      {{.title = "Top-1 agreement", .unit = "share of places"},
       {{"top1_agreement", "training text"}, {"eval_top1_agreement", "held out"}}},
      {{.title = "KL to the teacher, 90 and 99 %", .unit = "held out, nats a token"},
       {{"eval_kl_p99", "99 %"},
        {"eval_kl_p90", "90 %"},
        {"eval_kl_lower_bound_p99", "99 %, at least"},
        {"eval_kl_lower_bound_p90", "90 %, at least"}}},
      {{.title = "Calibration error", .unit = "held out"}, {{"eval_ece", "model"}, {"eval_teacher_ece", "teacher"}}},
      {{.title = "Acceptance", .unit = "held out, sum min(p,q)"},
       {{"eval_sum_min", "acceptance"}, {"eval_sum_min_upper_bound", "acceptance, at most"}}}};
}

/// A field for each axis of the mesh, under its name.
std::vector<std::pair<std::string, std::string>> fields_by_axis(const std::string& prefix) {
  std::vector<std::pair<std::string, std::string>> fields;
  for (const std::string_view axis : parallel::comm_axis_names) fields.emplace_back(prefix + std::string(axis), axis);
  return fields;
}

std::vector<Fields> of_machine() {
  return {{{.title = "Learning rate", .is_exact = true, .from_zero = true}, {{"lr", "rate"}}},
          {{.title = "Gradient norm", .unit = "before clipping", .may_be_log = true}, {{"grad_norm", "norm"}}},
          {{.title = "Gradient by term", .unit = "of the student's logits", .may_be_log = true},
           {{"grad_norm_ce", "cross-entropy"}, {"grad_norm_divergence", "divergence"}}},
          {{.title = "Speed", .unit = "tokens a second", .from_zero = true}, {{"tokens_per_s", "speed"}}},
          {{.title = "Use of the machine", .unit = "% of its measured peak", .scale = 100, .from_zero = true},
           {{"mfu", "use"}}},
          {{.title = "Exposed communication",
            .unit = "ms a step, the rank that waits most",
            .scale = 1e3,
            .from_zero = true},
           fields_by_axis("exposed_s.")},
          {{.title = "Saving", .unit = "seconds", .from_zero = true},
           {{"save_stall_s", "that steps waited"}, {"save_s", "until it was whole"}}},
          {{.title = "Memory",
            .unit = "GiB at the peak, first rank",
            .is_exact = true,
            .scale = 1 / gib,
            .from_zero = true},
           {{"rss_bytes", "memory"}}}};
}

std::vector<Fields> of_experts() {
  return {{{.title = "Router losses", .unit = "weighted", .may_be_log = true},
           {{"balance_loss", "balance"}, {"z_loss", "z"}}},
          {{.title = "Expert load: entropy", .unit = "1: all experts alike"},
           {{"expert_load.entropy", "mean of the layers"},
            {"expert_load.entropy.low", "worst layer"},
            {"eval_load_entropy", "held out, mean"},
            {"eval_load_worst_entropy", "held out, worst layer"}}},
          {{.title = "Expert load: shares", .unit = "of a layer's assignments, over all layers", .from_zero = true},
           {{"expert_load.most.high", "most used expert"}, {"expert_load.least.low", "least used expert"}}},
          {{.title = "Expert load: starved",
            .unit = "% of the experts with under 5 % of an even share",
            .is_exact = true,
            .scale = 100,
            .from_zero = true},
           {{"expert_load.starved", "mean of the layers"}}},
          {{.title = "Expert load: starved, held out", .unit = "experts of all layers", .from_zero = true},
           {{"eval_starved_experts", "starved experts"}}},
          {{.title = "Expert load: drops", .unit = "assignments above the experts' capacity", .from_zero = true},
           {{"expert_load.drops", "mean of the layers"}}},
          {{.title = "Expert load: untaken",
            .unit = "% of the tokens that no expert took",
            .is_exact = true,
            .scale = 100,
            .from_zero = true},
           {{"expert_load.untaken", "mean of the layers"}, {"expert_load.untaken.high", "worst layer"}}},
          {{.title = "Experts that choose: KL from there", .unit = "nats a token, held out", .from_zero = true},
           {{"eval_choice_kl", "KL"}}}};
}

/// A plot for each figure that any of the sets has, with a field a set.
std::vector<Fields> of_sets(const std::vector<Columns>& runs) {
  std::set<std::string> sets;
  for (const Columns& columns : runs)
    for (const auto& [field, _] : columns)
      if (field.starts_with("sets.")) sets.insert(field.substr(5, field.rfind('.') - 5));
  if (sets.empty()) return {};
  std::vector<Fields> plots = {
      {{.title = "Cross-entropy by set", .unit = "held out, nats a token"}, {{"ce", ""}}},
      {{.title = "Bits/byte by set", .unit = "held out"}, {{"bits_per_byte", ""}}},
      {{.title = "KL to the teacher by set", .unit = "held out, nats a token"},
       {{"kl", ""}, {"kl_lower_bound", ", at least"}, {"kl_estimate", ", estimate"}}},
      {{.title = "Top-1 agreement by set", .unit = "held out, share of places"}, {{"top1_agreement", ""}}},
      {{.title = "Acceptance by set", .unit = "held out, sum min(p,q)"},
       {{"sum_min", ""}, {"sum_min_upper_bound", ", at most"}}}};
  for (Fields& plot : plots) {
    const auto figures = std::exchange(plot.fields, {});
    for (const std::string& set : sets)
      for (const auto& [figure, what] : figures)
        plot.fields.emplace_back(fmt::format("sets.{}.{}", set, figure), set + what);
  }
  return plots;
}

class Drawer {
 public:
  explicit Drawer(const std::vector<RunResults>& runs) : runs_(runs) {
    first_step_ = runs.front().record.first_step;
    for (const RunResults& run : runs) {
      columns_.push_back(columns_of(run));
      first_step_ = run.before ? 0 : std::min(first_step_, run.record.first_step);
      last_step_ = std::max(last_step_, run.record.last_step);
    }
  }

  const std::vector<Columns>& columns() const { return columns_; }

  std::string draw(const std::vector<Fields>& plots) {
    std::string html;
    for (const Fields& plot : plots) {
      for (const auto& [field, _] : plot.fields) shown_.insert(field);
      html += runs_.size() == 1 ? draw_of_one(plot) : draw_of_several(plot);
    }
    return html;
  }

  /// Fields that nothing else showed, each by itself under its own name.
  std::string draw_others() {
    std::set<std::string> others;
    for (const Columns& columns : columns_)
      for (const auto& [field, _] : columns)
        if (!shown_.contains(field) && !field.starts_with("sets.") && !field.starts_with("expert_load."))
          others.insert(field);
    std::vector<Fields> plots;
    for (const std::string& field : others) plots.push_back({{.title = field}, {{field, field}}});
    return draw(plots);
  }

  /// Fields that the page has in another place, or that say nothing over time.
  void leave_out(std::initializer_list<const char*> fields) { shown_.insert(fields.begin(), fields.end()); }

  std::string draw_maps() const {
    std::string html;
    for (const RunResults& run : runs_) {
      const std::string of = runs_.size() > 1 ? run.name : "";
      html += load_map(run.record.loads, of) + entropy_map(run.record.loads, of);
    }
    return html;
  }

 private:
  static bool is_marks(const std::string& field) { return field.starts_with("eval_") || field.starts_with("sets."); }

  std::string draw_of_one(const Fields& fields) {
    const Columns& columns = columns_.front();
    const auto find = [&](const std::string& field) {
      const auto found = columns.find(field);
      return found == columns.end() ? nullptr : &found->second;
    };
    Plot plot = fields.plot;
    for (const auto& [field, label] : fields.fields) plot.curves.push_back({label, find(field), is_marks(field)});
    plot.band_low = find(fields.fields.front().first + ".low");
    plot.band_high = find(fields.fields.front().first + ".high");
    return to_figure(plot, first_step_, last_step_);
  }

  std::string draw_of_several(const Fields& fields) {
    std::string html;
    for (const auto& [field, label] : fields.fields) {
      Plot plot = fields.plot;
      if (fields.fields.size() > 1) plot.title += ", " + label;
      plot.is_by_run = true;
      plot.most_points = std::max<std::size_t>(100, 800 / runs_.size());
      for (std::size_t run = 0; run < runs_.size(); ++run) {
        const auto found = columns_[run].find(field);
        if (found != columns_[run].end())
          plot.curves.push_back({runs_[run].name, &found->second, is_marks(field), run});
      }
      html += to_figure(plot, first_step_, last_step_);
    }
    return html;
  }

  const std::vector<RunResults>& runs_;
  std::vector<Columns> columns_;
  std::set<std::string> shown_;
  std::int64_t first_step_ = 0, last_step_ = 0;
};

/// The series' last value at or before each of the steps; nothing where it has none.
std::string values_at(const RunRecord& record, const char* field, const std::vector<double>& steps) {
  const auto found = record.series.find(field);
  if (found == record.series.end() || found->second.values.empty()) return "[]";
  const Series& series = found->second;
  std::string text = "[0";
  for (const double step : steps) {
    const auto after = std::upper_bound(series.steps.begin(), series.steps.end(), step) - series.steps.begin();
    text += fmt::format(",{:.9g}", after == 0 ? 0.0 : series.values[static_cast<std::size_t>(after - 1)]);
  }
  return text + "]";
}

}  // namespace

std::string draw_curves(const std::vector<RunResults>& runs) {
  Drawer drawer(runs);
  drawer.leave_out(
      {"seconds", "tokens", "eval_tokens", "eval_bytes", "eval_teacher_ce", "eval_experts", "eval_load_worst_layer"});
  std::string html = drawer.draw(of_training());
  html += drawer.draw(of_sets(drawer.columns())) + drawer.draw(of_machine());
  const std::string experts = drawer.draw_maps() + drawer.draw(of_experts());
  html += drawer.draw_others();
  std::string text = fmt::format(
      "<h2>Curves</h2>\n<p class=\"note\">Lines are exponential averages, faint behind them what was recorded; points "
      "are held-out samples.</p>\n<div id=\"controls\" hidden=\"\"></div>\n<div class=\"grid\">\n{}</div>\n",
      html);
  if (!experts.empty()) text += fmt::format("<h2>Experts</h2>\n<div class=\"grid\">\n{}</div>\n", experts);
  return text;
}

std::string runs_data(const std::vector<RunResults>& runs) {
  std::string list;
  std::int64_t first = runs.front().record.first_step;
  std::size_t longest = 0;
  for (const RunResults& run : runs) {
    first = run.before ? 0 : std::min(first, run.record.first_step);
    const auto loss = run.record.series.find("loss");
    const Series none;
    const Series& recorded = loss == run.record.series.end() ? none : loss->second;
    longest = std::max(longest, recorded.values.size());
    std::vector<double> steps;
    constexpr std::size_t most = 300;
    const std::size_t stride = (recorded.steps.size() + most - 1) / most;
    for (std::size_t i = 0; i < recorded.steps.size(); i += stride) steps.push_back(recorded.steps[i]);
    steps.push_back(static_cast<double>(run.record.last_step));
    std::string of_steps = "[0";
    for (const double step : steps) of_steps += fmt::format(",{:.15g}", step);
    list += fmt::format(R"({}{{"name":{},"step":{}],"tokens":{},"seconds":{}}})", list.empty() ? "" : ",",
                        script_string(run.name), of_steps, values_at(run.record, "tokens", steps),
                        values_at(run.record, "seconds", steps));
  }
  return fmt::format(
      "<script type=\"application/json\" "
      "id=\"runs\">{{\"first\":{},\"weight\":{},\"colours\":{},\"runs\":[{}]}}</script>\n",
      first, first_weight(longest), num_colours, list);
}

}  // namespace limbeck::launch
