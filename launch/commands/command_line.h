// The command line: subcommands into plain structs. A command is there if main.cpp hands its function over.
//
//     CommandLine line;
//     line.train(run_train);                   // `limbeck train CONFIG ...` now exists
//     line.tokenize(run_tokenize);
//     Invocation invocation = line.parse(argc, argv);   // throws UsageError: exit code 2
//     if (invocation.run) return invocation.run();
//     write_result(invocation.text);                    // --help or --version was asked for
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "launch/console/log.h"

namespace CLI {
class App;
}

namespace limbeck::launch {

/// Of every command: --quiet, --verbose.
struct CommonOptions {
  Verbosity verbosity = Verbosity::Normal;
};

/// Of `train` and `distill`.
struct TrainOptions : CommonOptions {
  std::vector<std::filesystem::path> configs;  // each is laid over those before it
  std::vector<std::string> sets;               // section.field=value, as load_config takes them
  std::optional<std::string> out;              // instead of output.dir
  bool resume = false;                // continue from the newest good checkpoint of the run directory, if there is one
  std::optional<std::int64_t> steps;  // stop after this step; the schedule stays that of train.steps
  std::optional<std::int64_t> threads;                  // instead of train.threads
  std::optional<std::filesystem::path> dump_gradients;  // HDF5 file for the last step's gradients
  bool debug_step = false;                              // where a step is not finite, the error names the operation
  bool baseline = false;  // of `distill`: train the same student on the text alone afterwards, in DIR/baseline
  std::string program = "limbeck";  // as it was started, for the commands that the run recommends
  std::string command_line = {};    // all of it, as a shell takes it
};

/// Of `cache-teacher`.
struct CacheTeacherOptions : CommonOptions {
  std::vector<std::filesystem::path> configs;  // as TrainOptions has them
  std::vector<std::string> sets;
  std::optional<std::string> out;       // instead of teacher.cache
  std::optional<std::int64_t> threads;  // instead of train.threads
  std::optional<std::string> share;     // I/N: the I-th of N shares of what is missing alone
  bool verify = false;                  // read all of the cache again
};

struct EvalOptions : CommonOptions {
  std::filesystem::path model;  // a config (its run's newest checkpoint), or a checkpoint, HF directory or GGUF file
  std::vector<std::filesystem::path> more;       // configs to lay over it, or over its run's
  std::vector<std::string> sets;                 // over the config, or over that of the checkpoint's run
  std::vector<std::filesystem::path> text;       // files and folders, measured whole
  std::optional<std::filesystem::path> tokens;   // token file or text of integers, instead
  std::optional<std::filesystem::path> teacher;  // measured against
  std::optional<std::filesystem::path> against;  // another model, measured on the same
  std::vector<std::string> tasks;                // instead of a text: KIND:FILE, as parse_task takes them
  std::optional<std::int64_t> max_tokens;        // of answers that are generated; else 256
  std::string tokenizer;                         // as TokenizeOptions has it; empty: the model's
  std::string format = "auto";                   // of the text, as the next two
  std::string field = "text";
  bool parse_special = false;
  // Tokens read at once. Else of a text the sequences of the model's run, or 1024; of tasks the model's positions.
  std::optional<std::int64_t> window;
  std::optional<std::int64_t> stride;           // from window to window; else half of one
  bool json = false;                            // one object instead of a table
  int threads = 0;                              // of a rank; 0: see launch/run/threads.h
  std::optional<std::filesystem::path> logits;  // HDF5 file for /tokens [T] and /logits [T,V], of `tokens`
  bool force = false;                           // replace it
};

struct GenerateOptions : CommonOptions {
  std::filesystem::path model;
  std::string prompt;                            // "-": standard input, whole
  std::optional<std::filesystem::path> prompts;  // instead, a file of them or "-": one a line
  std::optional<std::string> field;              // of JSON lines
  bool chat = false;                             // prompts are conversations, or a user's first words
  std::optional<std::string> system;             // in front of each
  std::int64_t batch = 16;                       // most prompts that advance together
  int threads = 0;                               // 0: the cores this process may use
  bool json = false;                             // an object a prompt, in place of the text
  std::optional<std::int64_t> max_tokens;        // else 64, or as many as fit
  double temperature = 0.8;                      // 0: greedy
  std::int64_t top_k = 40;                       // 0: all
  double top_p = 0.95;
  std::uint64_t seed = 1;
  bool speculative = false;                      // drafts by the layers that predict further tokens
  std::optional<std::filesystem::path> draft;    // instead by another model,
  std::int64_t draft_tokens = 4;                 // at most so many before a pass
  std::optional<std::filesystem::path> cluster;  // whose power and prices count (launch/plan/cluster.proto)
};

struct ConvertOptions : CommonOptions {
  std::filesystem::path source;
  std::filesystem::path destination;  // a GGUF file if it ends in .gguf, else a Hugging Face directory
  std::string dtype = "float32";      // of the written weights: float32, bfloat16; GGUF also float16, Q8_0 and others
  bool force = false;                 // replace a file
  bool verify = true;                 // read back what was written, before it gets its name
  bool adapter = false;               // a run's adapters alone
  int threads = 0;                    // 0: the cores this process may use
  std::vector<std::filesystem::path> init;  // configs by which a student is cut from `source`, to write that
  std::vector<std::string> sets;            // over them
};

struct InspectOptions : CommonOptions {
  std::filesystem::path file;
  std::string tokenizer;  // of a token file, to spell its tokens; as TokenizeOptions has it; empty: none
  bool json = false;      // one object instead of lines
};

struct TokenizeOptions : CommonOptions {
  std::vector<std::filesystem::path> paths;  // files and folders
  std::string tokenizer;                     // "bytes", or a file or directory with a tokenizer; empty with `train`
  std::filesystem::path out;                 // PREFIX of .bin and .idx; with `train` a folder
  std::string format = "auto";               // of the text: "auto", "text", "jsonl" or "chat"
  std::string field = "text";                // of JSON lines
  bool parse_special = false;                // names of special tokens in the text become those tokens
  bool force = false;                        // replace what is at `out`
  int threads = 0;                           // 0: the cores this process may use
  bool train = false;                        // make a tokenizer from the text
  std::int64_t vocabulary = 0;               // its tokens in all
  std::string pretokenizer = "llama3";       // how it cuts text into words
  std::vector<std::string> special = {"<|endoftext|>"};  // its special tokens; the first ends documents
};

struct VerifyOptions : CommonOptions {
  std::vector<std::filesystem::path> configs;  // as TrainOptions has them
  std::vector<std::string> sets;
  std::vector<std::string> layouts = {"auto"};  // as parse_layout_item takes them; "auto" alone: a covering set
  std::optional<int> ranks;                     // that are threads; else what a layout names
  std::int64_t steps = 3;
  std::optional<double> tolerance;  // else usual_tolerance
  bool is_float64 = false;
  std::optional<std::int64_t> threads;  // instead of train.threads
  bool json = false;                    // one object instead of a table
};

struct PlanOptions : CommonOptions {
  std::vector<std::filesystem::path> configs;  // as TrainOptions has them
  std::vector<std::string> sets;
  int ranks = 1;
  std::optional<std::filesystem::path> cluster;  // launch/plan/cluster.proto
  std::optional<std::string> skew;               // as shares_of takes it (launch/plan/expert_shares.h); else even
  bool json = false;                             // one object instead of tables
  bool calibrates = false;                       // measure this machine instead
  std::filesystem::path calibrated = {};         // and keep it there; empty: machine_file (measured_machine.h)
};

struct ReportOptions : CommonOptions {
  std::vector<std::filesystem::path> runs;
  std::optional<std::filesystem::path> out;  // instead of report.html in the run's directory, or comparison.html here
  bool force = false;                        // replace it where it is no page of Limbeck's
  std::optional<std::filesystem::path> cluster;  // by which one run is planned, and priced (launch/plan/cluster.proto)
};

struct WatchOptions : CommonOptions {
  std::vector<std::filesystem::path> runs;
  std::int64_t port = 8765;  // of 127.0.0.1; 0: any
};

struct CompareOptions : CommonOptions {
  std::vector<std::filesystem::path> runs;
  bool json = false;  // one object instead of the table
};

/// Of `launch`.
struct LaunchOptions : CommonOptions {
  int ranks = 1;
  std::vector<std::string> mpirun;   // its own options
  std::vector<std::string> command;  // behind "--": train or distill, and theirs
  int max_restarts = 10;
  std::optional<int> min_ranks;  // with fewer, down to so many; else always `ranks`
  double silent_after = 60;      // seconds
  double step_deadline = 1800;   // likewise; 0: none
};

/// What the arguments ask for: a command to run, or a text to print (then `run` is empty and the exit code 0).
struct Invocation {
  std::function<int()> run;
  std::string text;
};

class CommandLine {
 public:
  CommandLine();
  ~CommandLine();
  CommandLine(const CommandLine&) = delete;
  CommandLine& operator=(const CommandLine&) = delete;

  void train(std::function<int(const TrainOptions&)> run);
  void distill(std::function<int(const TrainOptions&)> run);
  void cache_teacher(std::function<int(const CacheTeacherOptions&)> run);
  void eval(std::function<int(const EvalOptions&)> run);
  void generate(std::function<int(const GenerateOptions&)> run);
  void convert(std::function<int(const ConvertOptions&)> run);
  void inspect(std::function<int(const InspectOptions&)> run);
  void tokenize(std::function<int(const TokenizeOptions&)> run);
  void verify(std::function<int(const VerifyOptions&)> run);
  void plan(std::function<int(const PlanOptions&)> run);
  void report(std::function<int(const ReportOptions&)> run);
  void watch(std::function<int(const WatchOptions&)> run);
  void compare(std::function<int(const CompareOptions&)> run);
  void launch(std::function<int(const LaunchOptions&)> run);

  /// Throws a UsageError, one line that names command and option. Call once.
  Invocation parse(int argc, const char* const* argv);

 private:
  CLI::App& command(const std::string& name, const std::string& what, const std::string& example);
  std::shared_ptr<TrainOptions> add_training(CLI::App& app, std::function<int(const TrainOptions&)> run);
  /// The options of a command, kept until it runs.
  template <class Options>
  std::shared_ptr<Options> bind(CLI::App& app, std::function<int(const Options&)> run);

  /// What of the arguments is launch's own; the others are mpirun's and the launched command's, and are kept.
  std::vector<std::string> own_of_launch(const std::vector<std::string>& arguments);

  std::unique_ptr<CLI::App> app_;
  std::shared_ptr<LaunchOptions> launch_;
  std::function<int()> chosen_;
  std::string program_ = "limbeck";
  std::string command_line_;
};

}  // namespace limbeck::launch
