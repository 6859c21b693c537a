#include "launch/supervision/supervisor.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <thread>
#include <utility>

#include "core/counted.h"
#include "core/error.h"
#include "data/files/atomic_file.h"
#include "launch/console/streams.h"
#include "launch/report/event_file.h"
#include "launch/run/available_memory.h"
#include "launch/run/stop_flag.h"

namespace limbeck::launch {

namespace {

using namespace std::chrono_literals;

constexpr int exit_stopped = 3;
constexpr auto ask_again_after = 5s;
constexpr auto patience_with_lock = 120s;

constexpr int looks_until_silent = 20;

/// mpirun, without which ranks that have not joined yet wait in their first exchange, and do give signs of life. Looks
/// in a row that found it stopped say for how long: while this process is stopped itself, there are none.
std::optional<Cause> find_stopped(int looks, const Vigil::Limits& limits) {
  if (looks <= looks_until_silent) return std::nullopt;
  return Cause{.kind = CauseKind::Silent,
               .what = fmt::format("mpirun has been stopped for {} s (--silent-after)", limits.silent_after.count())};
}

/// "" where none can be made.
std::filesystem::path make_temporary_folder() {
  std::error_code error;
  std::string name = (std::filesystem::temp_directory_path(error) / "limbeck_launch_XXXXXX").string();
  return error || ::mkdtemp(name.data()) == nullptr ? "" : name;
}

}  // namespace

Supervisor::Supervisor(Supervised what, Log log)
    : what_(std::move(what)),
      log_(std::move(log)),
      run_(what_.config.output.dir),
      ranks_(what_.ranks),
      hosts_(what_.mpirun) {}

Supervisor::~Supervisor() {
  std::error_code ignored;
  if (!lists_.empty()) std::filesystem::remove_all(lists_, ignored);
}

int Supervisor::run() {
  catch_stop_signals();
  std::error_code error;
  if (std::filesystem::is_directory(run_.path(), error)) RunDirectory::check_usable(run_.path(), what_.resume);
  const auto tell_all = [&] {
    if (attempts_.size() > 1) write_note(to_text(attempts_));
  };
  while (true) {
    const std::vector<RunProgress> before = progress();
    keep(attempt(), before);
    const Attempt& last = attempts_.back();
    if (last.ended != Ended::Failed) {
      tell_all();
      return last.ended == Ended::Done ? 0 : exit_stopped;
    }
    const NextStart next = next_start(
        attempts_, what_.restarts, what_.config.parallel,
        {.count = num_hosts_, .num_far = hosts_.num_far(host_name()), .room_without = [this](const std::string& host) {
           return hosts_.room_without(host, ranks_on_, ranks_);
         }});
    if (!next.ranks || stop_requested()) {
      tell_all();
      if (last.code == 2) return 2;  // the ranks have said why
      core::fail("launch: no more attempts: {}", next.ranks ? "asked to stop, but " + next.why : next.why);
    }
    say_failed(last, next);
    if (!wait(next.wait)) {
      log_->info("launch: asked to stop");
      tell_all();
      return exit_stopped;
    }
    ranks_ = *next.ranks;
    if (next.layout) layout_ = next.layout;
    if (next.without) leave_out(*next.without);
  }
}

bool Supervisor::is_locked() const {
  return run_.is_in_use() || (what_.baseline && RunDirectory(*what_.baseline).is_in_use());
}

bool Supervisor::wait(std::chrono::seconds time) const {
  if (is_locked())
    log_->info("launch: the run is locked still, perhaps by what is left of the attempt: waiting for it, {} s at most",
               patience_with_lock.count());
  const auto begin = Clock::now();
  const auto is_early = [&] {
    const auto waited = Clock::now() - begin;
    return waited < time || (waited < patience_with_lock && is_locked());
  };
  while (!stop_requested() && is_early()) std::this_thread::sleep_for(100ms);
  return !stop_requested();
}

void Supervisor::leave_out(const std::string& host) {
  hosts_.leave_out(host);
  without_.push_back(host);
  std::erase_if(ranks_on_, [&](const auto& of) { return is_same_host(of.first, host); });
  // Of the run's disk there may be nothing left.
  if (lists_.empty() && hosts_.writes_file()) lists_ = make_temporary_folder();
}

std::vector<std::string> Supervisor::command() const {
  std::vector<std::string> words = {"mpirun", "-n", std::to_string(ranks_)};
  words.insert(words.end(), {"-x", std::string(supervised_variable) + "=1"});
  const std::vector<std::string> options = hosts_.options(lists_.empty() ? run_.ranks() : lists_);
  words.insert(words.end(), options.begin(), options.end());
  words.push_back(what_.program);
  words.insert(words.end(), what_.training.begin(), what_.training.end());
  if (!what_.resume && !attempts_.empty()) words.emplace_back("--resume");
  if (layout_) words.insert(words.end(), {"--set", "parallel.layout=" + *layout_});
  return words;
}

/// Those that are there; but those of ranks that an attempt with `ranks` does not have are removed. The others stay, to
/// be overwritten: where the disk is full there is no room for new ones.
std::vector<Beat> Supervisor::signs_of(int ranks) const {
  std::vector<Beat> signs = read_beats(run_.ranks());
  for (const Beat& beat : signs)
    if (beat.rank >= ranks) std::filesystem::remove(beat_file(run_.ranks(), beat.rank));
  return signs;
}

Attempt Supervisor::attempt() {
  data::make_folder(run_.ranks());
  const std::vector<Beat> before = signs_of(ranks_);
  Attempt result{
      .number = static_cast<int>(attempts_.size()) + 1, .ranks = ranks_, .without = without_, .time = wall_time()};
  const auto begin = Clock::now();
  const std::int64_t kills = memory_kills();
  Witness witness;
  Job job(command());
  const std::optional<Cause> seen = watch(job, witness);
  job.end();
  for (auto lines = job.read(0ms); !lines.empty(); lines = job.read(0ms))
    for (const std::string& line : lines) witness.hear(line);
  result.seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  result.code = job.code();
  std::vector<Beat> beats = read_beats(run_.ranks());
  std::erase_if(beats, [&](const Beat& beat) { return std::ranges::count(before, beat) > 0; });
  std::map<std::string, int> on;
  for (const Beat& beat : beats) ++on[beat.host];
  num_hosts_ = static_cast<int>(on.size());
  for (const auto& [host, ranks] : on) ranks_on_[host] = std::max(ranks_on_[host], ranks);
  if (!seen && result.code == 0) return result;
  const bool is_stopped = !seen && result.code == exit_stopped;
  result.ended = is_stopped ? Ended::Stopped : Ended::Failed;
  if (is_stopped) return result;
  result.cause = seen ? *seen : witness.cause(result.code);
  if (result.cause->kind == CauseKind::Signal && memory_kills() > kills)
    result.cause->what += ", while the system killed for lack of memory, its own or a control group's";
  place(*result.cause, beats);
  return result;
}

std::optional<Cause> Supervisor::watch(Job& job, Witness& witness) {
  const auto look_every = what_.limits.silent_after / looks_until_silent;
  int looks_stopped = 0;
  auto looked = Clock::now();
  Vigil vigil(run_.ranks(), ranks_, what_.limits, looked);
  std::optional<Clock::time_point> asked;
  while (!job.has_ended()) {
    for (const std::string& line : job.read(100ms)) witness.hear(line);
    // Again and again: where mpirun has no ranks yet, the signal goes to nobody.
    if (stop_requested() && (!asked || Clock::now() - *asked >= ask_again_after)) {
      if (!asked) log_->info("launch: asked to stop: so are the ranks");
      job.ask_to_stop();
      asked = Clock::now();
    }
    const auto now = Clock::now();
    if (now - looked < look_every) continue;
    // This process was stopped, or stood still: so may all have been (`scontrol suspend`).
    if (now - looked > 2 * look_every + 1s) vigil.skip(now - looked - look_every);
    looked = now;
    if (job.has_ended()) break;  // and whether it is stopped: much time may have gone by above
    looks_stopped = job.is_stopped() ? looks_stopped + 1 : 0;
    // A rank that fails gives no more signs while it waits for another to say why.
    const auto stopped = find_stopped(looks_stopped, what_.limits);
    if (const auto cause = stopped ? stopped : vigil.look(looked)) return witness.heard().value_or(*cause);
  }
  return std::nullopt;
}

std::vector<RunProgress> Supervisor::progress() const {
  std::vector<RunProgress> all = {read_progress(run_)};
  if (what_.baseline) all.push_back(read_progress(RunDirectory(*what_.baseline)));
  return all;
}

void Supervisor::keep(Attempt attempt, const std::vector<RunProgress>& before) {
  const std::vector<RunProgress> after = progress();
  for (std::size_t run = 0; run < after.size(); ++run) note_progress(attempt, before[run], after[run]);
  // Signs are a second old; that a step is done is known at once.
  if (attempt.cause && attempt.cause->rank && attempt.to)
    attempt.cause->step = std::max(attempt.cause->step, attempt.failed_at());
  if (attempt.ended == Ended::Failed && stop_requested() && attempt.has_obeyed()) {
    if (attempt.has_trained()) log_->warn("launch: stopped, and {}", to_text(*attempt.cause));
    attempt.ended = Ended::Stopped;
    attempt.cause.reset();
  }
  if (const std::string warning = add_line(run_.launches(), to_json(attempt)); !warning.empty())
    log_->warn("launch: {}", warning);
  attempts_.push_back(std::move(attempt));
}

void Supervisor::say_failed(const Attempt& attempt, const NextStart& next) {
  log_->warn("launch: attempt {} failed: {}", attempt.number, to_text(*attempt.cause));
  const bool is_other = next.without || *next.ranks != attempt.ranks;
  log_->warn("launch: going on with {}{}{} from the newest good checkpoint{}", core::counted(*next.ranks, "rank"),
             next.without ? " without " + *next.without : "", is_other ? fmt::format(", for {}", next.why) : "",
             next.wait.count() > 0 ? fmt::format(", in {} s", next.wait.count()) : "");
}

}  // namespace limbeck::launch
