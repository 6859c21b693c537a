#include "launch/config/teacher_shares.h"

#include <algorithm>

namespace limbeck::launch {
namespace {

/// A teacher's fields that say what it teaches.
struct Taught {
  std::string field;  // of `teaches`
  const std::vector<std::string>& teaches;
  double weight;
};

std::vector<Taught> taught_by(const TeacherConfig& config) {
  std::vector<Taught> all = {{"teacher.teaches", config.teaches, config.weight}};
  for (std::size_t k = 0; k < config.others.size(); ++k)
    all.push_back({fmt::format("teacher.others[{}].teaches", k), config.others[k].teaches, config.others[k].weight});
  return all;
}

/// Names of sources; one without a name where there is one text.
std::vector<std::string> names_of_sources(const DataConfig& data) {
  std::vector<std::string> names;
  for (std::size_t i = 0; i < data.sources.size(); ++i) names.push_back(name_of_source(data, i));
  if (names.empty()) names.emplace_back();
  return names;
}

bool teaches(const Taught& teacher, const std::string& source) {
  return teacher.teaches.empty() || std::ranges::count(teacher.teaches, source) > 0;
}

}  // namespace

std::vector<std::vector<double>> teacher_shares(const RunConfig& config) {
  std::vector<std::vector<double>> shares;
  const std::vector<Taught> teachers = taught_by(*config.teacher);
  for (const std::string& source : names_of_sources(config.data)) {
    double sum = 0;
    for (const Taught& teacher : teachers) sum += teaches(teacher, source) ? teacher.weight : 0;
    std::vector<double>& of_source = shares.emplace_back();
    for (const Taught& teacher : teachers) of_source.push_back(teaches(teacher, source) ? teacher.weight / sum : 0);
  }
  return shares;
}

TeacherFault teacher_fault(const RunConfig& config) {
  const std::vector<Taught> teachers = taught_by(*config.teacher);
  const std::vector<std::string> sources = names_of_sources(config.data);
  for (const Taught& teacher : teachers)
    for (const std::string& name : teacher.teaches)
      if (name.empty() || std::ranges::count(sources, name) == 0)
        return {teacher.field, fmt::format("has \"{}\", expected names of data.sources", name)};
  for (const std::string& source : sources)
    if (std::ranges::none_of(teachers, [&](const Taught& teacher) { return teaches(teacher, source); }))
      return {teachers.front().field,
              fmt::format("leaves out the source {}, which no other teacher teaches, expected one for each", source)};
  return {};
}

}  // namespace limbeck::launch
