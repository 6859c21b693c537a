// What a run is and how it was started, as its start.json keeps it: sizes of the models, and for each start of the run
// the command, the ranks and the machine.
//
//     RunFacts facts = run_facts_from_json(read_start_file(run), "run/start.json");
//     facts.starts.push_back({.step = 100, .command = "limbeck train run.textproto --resume", .ranks = 2});
//     add_to_start_file(run, to_json(facts));
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

namespace limbeck::launch {

struct ParameterFigures {
  std::int64_t total = 0;
  std::int64_t active = 0;     // a token
  std::int64_t trainable = 0;  // those that the optimizer moves
};

/// One start of the program on the run: the first one, and each that went on from a checkpoint.
struct RunStarted {
  std::int64_t step = 0;  // done before
  double time = 0;        // seconds since 1970
  std::string command = {};
  std::int64_t ranks = 1;  // all of them
  std::string layout = {};
  std::int64_t teacher_ranks = 0;   // of those the ones that have the teacher alone
  std::string teacher_layout = {};  // theirs; without them over all ranks, or empty
  std::int64_t threads = 1;         // of a rank
  std::string host = {};            // of the first rank, as the next two
  std::string processor = {};
  std::string kernels = {};  // the level they are built for
  std::string version = {};  // of Limbeck
  std::string energy = {};   // by what the joules of steps are known on the first rank's machine; empty: they are not
};

/// What work on so many tokens took.
struct WorkFigures {
  std::int64_t tokens = 0;
  double seconds = 0;
  std::int64_t ranks = 1;
  std::optional<double> joules = {};  // of the machines, where their counters say it
  std::string by = {};                // which those are (EnergyMeter::by)
};
nlohmann::ordered_json to_json(const WorkFigures& work);

struct RunFacts {
  std::optional<ParameterFigures> model;  // the student
  std::optional<ParameterFigures> teacher;
  std::vector<RunStarted> starts;
  std::optional<WorkFigures> decode = {}, teacher_decode = {};  // of the config's prompt, one text
};

/// The members of start.json: "parameters", "teacher_parameters", "starts". "decode" and "teacher_decode" are
/// added by themselves, when they are measured.
nlohmann::ordered_json to_json(const RunFacts& facts);
/// Of a start.json; what it does not have is not known. Throws, naming `where` and the member, for another type.
RunFacts run_facts_from_json(const nlohmann::json& start, const std::string& where);

/// start.json of a run directory; an empty object where there is none. Throws, naming it, where it is damaged.
nlohmann::json read_start_file(const std::filesystem::path& run);
/// Puts these members in it, in place of those of the same name, beside the others.
void add_to_start_file(const std::filesystem::path& run, const nlohmann::ordered_json& members);

}  // namespace limbeck::launch
