#include "launch/run/run_facts.h"

#include "core/error.h"
#include "data/files/atomic_file.h"
#include "data/files/json_at.h"
#include "data/files/json_text.h"

namespace limbeck::launch {

namespace {

using data::JsonAt;

constexpr std::uintmax_t most_bytes = std::uintmax_t{1} << 24U;

std::filesystem::path start_file(const std::filesystem::path& run) { return run / "start.json"; }

nlohmann::ordered_json to_json(const ParameterFigures& p) {
  return {{"total", p.total}, {"active", p.active}, {"trainable", p.trainable}};
}

std::optional<ParameterFigures> parameters(const JsonAt& start, const char* name) {
  const JsonAt in = start.get(name);
  if (in.is_null()) return std::nullopt;
  return ParameterFigures{in.at("total").whole(), in.at("active").whole(), in.at("trainable").whole()};
}

RunStarted started(const JsonAt& in) {
  const auto text = [&](const char* name) { return in.get(name).is_null() ? std::string() : in.at(name).text(); };
  const JsonAt time = in.at("time");
  if (!time.json().is_number()) time.refuse("a number");
  return {.step = in.at("step").whole(),
          .time = time.json().get<double>(),
          .command = text("command"),
          .ranks = in.at("ranks").whole(),
          .layout = text("layout"),
          .teacher_ranks = in.get("teacher_ranks").is_null() ? 0 : in.at("teacher_ranks").whole(),
          .teacher_layout = text("teacher_layout"),
          .threads = in.at("threads_per_rank").whole(),
          .host = text("host"),
          .processor = text("processor"),
          .kernels = text("kernels"),
          .version = text("limbeck"),
          .energy = text("energy")};
}

std::optional<WorkFigures> work_figures(const JsonAt& start, const char* name) {
  const JsonAt in = start.get(name);
  if (in.is_null()) return std::nullopt;
  const auto number = [&](const char* member) {
    const JsonAt value = in.at(member);
    if (!value.json().is_number() || !(value.json().get<double>() >= 0)) value.refuse("a number from 0");
    return value.json().get<double>();
  };
  WorkFigures work{.tokens = in.at("tokens").whole(), .seconds = number("seconds"), .ranks = in.at("ranks").whole()};
  if (work.tokens < 1) in.at("tokens").refuse("a number from 1");
  if (work.ranks < 1) in.at("ranks").refuse("a number from 1");
  if (in.get("joules").is_null()) return work;
  work.joules = number("joules");
  work.by = in.at("by").text();
  return work;
}

}  // namespace

nlohmann::ordered_json to_json(const RunFacts& facts) {
  nlohmann::ordered_json json = nlohmann::ordered_json::object();
  if (facts.model) json["parameters"] = to_json(*facts.model);
  if (facts.teacher) json["teacher_parameters"] = to_json(*facts.teacher);
  json["starts"] = nlohmann::ordered_json::array();
  for (const RunStarted& s : facts.starts) {
    nlohmann::ordered_json start = {
        {"step", s.step}, {"time", s.time}, {"command", s.command}, {"ranks", s.ranks}, {"layout", s.layout}};
    if (s.teacher_ranks > 0) start["teacher_ranks"] = s.teacher_ranks;
    if (!s.teacher_layout.empty()) start["teacher_layout"] = s.teacher_layout;
    start.update({{"threads_per_rank", s.threads},
                  {"host", s.host},
                  {"processor", s.processor},
                  {"kernels", s.kernels},
                  {"limbeck", s.version}});
    if (!s.energy.empty()) start["energy"] = s.energy;
    json["starts"].push_back(std::move(start));
  }
  return json;
}

nlohmann::ordered_json to_json(const WorkFigures& work) {
  nlohmann::ordered_json json = {{"tokens", work.tokens}, {"seconds", work.seconds}, {"ranks", work.ranks}};
  if (work.joules) json.update({{"joules", *work.joules}, {"by", work.by}});
  return json;
}

RunFacts run_facts_from_json(const nlohmann::json& start, const std::string& where) {
  const JsonAt in(start, where);
  RunFacts facts{.model = parameters(in, "parameters"),
                 .teacher = parameters(in, "teacher_parameters"),
                 .starts = {},
                 .decode = work_figures(in, "decode"),
                 .teacher_decode = work_figures(in, "teacher_decode")};
  const JsonAt starts = in.get("starts");
  if (starts.is_null()) return facts;
  for (std::size_t i = 0; i < starts.array().size(); ++i) facts.starts.push_back(started(starts.at(i)));
  return facts;
}

nlohmann::json read_start_file(const std::filesystem::path& run) {
  const std::string file = start_file(run).string();
  if (!std::filesystem::exists(file)) return nlohmann::json::object();
  const std::string where = file + ": not the start of a run";
  auto json = data::parse_json<nlohmann::json>(data::read_text_file(file, most_bytes), where);
  core::check(json.is_object(), "{}: it is {}, expected an object", where, json.type_name());
  return json;
}

void add_to_start_file(const std::filesystem::path& run, const nlohmann::ordered_json& members) {
  nlohmann::ordered_json json = read_start_file(run);
  json.update(members);
  data::write_file_atomically(start_file(run), data::indented(json));
}

}  // namespace limbeck::launch
