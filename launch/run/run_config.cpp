#include "launch/run/run_config.h"

#include <algorithm>
#include <functional>
#include <optional>

#include "core/error.h"
#include "launch/run/run_directory.h"

namespace limbeck::launch {

namespace fs = std::filesystem;

namespace {

/// Calls f(field, path, ending) for every path to what has to be there; it is there as path + ending.
void for_each_path(RunConfig& config,
                   const std::function<void(const std::string& field, std::string& path, const char* ending)>& f) {
  if (config.teacher) f("teacher.source", config.teacher->source, "");
  if (config.teacher)
    for (OtherTeacherConfig& other : config.teacher->others) f("teacher.others.source", other.source, "");
  if (config.teacher && !config.teacher->cache.empty()) f("teacher.cache", config.teacher->cache, "");
  if (config.model) f("model.source", config.model->source, "");
  DataConfig& data = config.data;
  f("data.tokens", data.tokens, ".idx");
  for (std::string& path : data.text) f("data.text", path, "");
  for (DataSourceConfig& source : data.sources) {
    f("data.sources.tokens", source.tokens, ".idx");
    for (std::string& path : source.text) f("data.sources.text", path, "");
  }
  for (EvaluationSetConfig& set : config.evaluation.set) {
    f("evaluation.set.tokens", set.tokens, ".idx");
    for (std::string& path : set.text) f("evaluation.set.text", path, "");
  }
  const bool is_word = data.tokenizer == "teacher" || data.tokenizer == "model" || data.tokenizer == "bytes";
  if (!is_word) f("data.tokenizer", data.tokenizer, "");
}

std::optional<RunDirectory> run_of(const fs::path& given) {
  if (RunDirectory::is_run(given)) return RunDirectory(given);
  const fs::path folder = given.has_parent_path() ? given.parent_path() : ".";
  if (given.filename() == RunDirectory(folder).config().filename() && RunDirectory::is_run(folder))
    return RunDirectory(folder);
  return std::nullopt;
}

/// Makes `config`, a run's `own` with what was laid and set over it, a config of the run in the folder `run`.
void be_of_run(RunConfig& config, const RunConfig& own, const fs::path& run) {
  if (config.output.dir == own.output.dir) config.output.dir = run.string();
  if (fs::current_path() == own.output.started_in) return;
  std::vector<std::string> paths_of_run = {own.data.cache_dir};
  RunConfig copy = own;
  const auto make_absolute = [&](std::string& path) {
    const bool is_of_run = std::find(paths_of_run.begin(), paths_of_run.end(), path) != paths_of_run.end();
    if (!path.empty() && !is_of_run) path = fs::absolute(path).string();
  };
  for_each_path(copy, [&](const std::string&, std::string& path, const char*) { paths_of_run.push_back(path); });
  for_each_path(config, [&](const std::string&, std::string& path, const char*) { make_absolute(path); });
  make_absolute(config.data.cache_dir);
}

ConfigPart part_of(const fs::path& given) {
  const auto run = run_of(given);
  return {run ? run->config() : given};
}

}  // namespace

RunConfig load_run_config(const ConfigPart& own, const fs::path& run, const std::vector<fs::path>& more,
                          const std::vector<std::string>& sets) {
  std::vector<ConfigPart> parts = {own};
  for (const fs::path& path : more) parts.push_back(part_of(path));
  RunConfig config = load_config(parts, sets);
  be_of_run(config, load_config({own}), run);
  return config;
}

RunConfig with_paths_found(RunConfig config) {
  const fs::path here = fs::current_path(), start = config.output.started_in, run = fs::absolute(config.output.dir);
  if (start.empty()) return config;
  for_each_path(config, [&](const std::string& field, std::string& path, const char* ending) {
    if (path.empty() || fs::path(path).is_absolute()) return;
    for (const fs::path& folder : {start, run, here})
      if (fs::exists((folder / path).string() + ending)) {
        if (folder != here) path = (folder / path).string();
        return;
      }
    core::fail_usage(
        "{} is {}, which is neither in {}, where the run was started, nor in {}, the run directory, nor here "
        "in {}",
        field, path, start.string(), run.string(), here.string());
  });
  std::string& cache = config.data.cache_dir;  // is made where it is not there
  if (start != here && fs::is_directory(start)) cache = (start / cache).string();
  return config;
}

RunConfig load_given_config(const std::vector<fs::path>& given, const std::vector<std::string>& sets) {
  std::vector<ConfigPart> parts;
  std::optional<RunDirectory> run;
  for (const fs::path& path : given) {
    if (const auto found = run_of(path)) run = found;
    parts.push_back(part_of(path));
  }
  RunConfig config = load_config(parts, sets);
  if (run)
    be_of_run(config, load_config(run->config()), run->path());
  else
    config.output.started_in.clear();
  return config;
}

}  // namespace limbeck::launch
