#include "parallel/mpi/mpi_world.h"

#include <mpi.h>
#include <sys/mman.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <mutex>
#include <numeric>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "core/system_error.h"
#include "parallel/comm/queued_comm.h"
#include "parallel/mpi/mpi_transfer.h"
#include "parallel/mpi/roll_call.h"

namespace limbeck::parallel {
namespace {

using core::check;

constexpr int tag_abort = 0;
constexpr int tag_leave = 1;
constexpr auto grace = std::chrono::seconds(2);

/// What a rank that stops the world sends to the others.
struct AbortMessage {
  int origin = 0;
  std::array<char, 2044> text{};
};

/// Throws where less address space is left (`ulimit -v`) than MPI takes while it starts: it would end the process, or
/// the daemon that it starts for a process alone, in lines that do not say what is missing. Open MPI 4.1.4 takes up to
/// 140 MiB.
void check_room_for_mpi() {
  constexpr std::size_t mib = 192;
  void* room = ::mmap(nullptr, mib << 20U, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  core::check_system(room != MAP_FAILED, "memory: the system refused {} MiB, for MPI to start in", mib);
  ::munmap(room, mib << 20U);
}

/// Open MPI's ranks of a machine share a file each, of 4 MiB (version 5: 16 MiB), in /dev/shm, and end by a signal
/// where that has no room, as in a container: there the files go to the folder of temporary ones, unless the
/// environment says where.
void make_room_for_shared_files() {
  constexpr std::uint64_t a_rank = std::uint64_t{17} << 20U;
  const char* const ranks = std::getenv("OMPI_COMM_WORLD_LOCAL_SIZE");
  struct statvfs room {};
  if (ranks == nullptr || ::statvfs("/dev/shm", &room) != 0) return;
  if (room.f_bavail * room.f_frsize >= a_rank * std::strtoull(ranks, nullptr, 10)) return;
  std::error_code error;
  const std::string folder = std::filesystem::temp_directory_path(error).string();
  for (const char* name : {"OMPI_MCA_btl_vader_backing_directory", "OMPI_MCA_btl_sm_backing_directory"})
    if (!error) ::setenv(name, folder.c_str(), /*overwrite=*/0);
}

MPI_Comm start_mpi() {
  int was_initialised = 0, provided = 0;
  MPI_Initialized(&was_initialised);
  check(was_initialised == 0, "mpi: a process has one MpiWorld, a second was made");
  check_room_for_mpi();
  make_room_for_shared_files();
  MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &provided);
  check(provided == MPI_THREAD_MULTIPLE, "mpi: the library does not allow calls from several threads");
  MPI_Comm world = MPI_COMM_NULL;
  MPI_Comm_dup(MPI_COMM_WORLD, &world);
  MPI_Comm_set_errhandler(world, MPI_ERRORS_RETURN);
  return world;
}

int rank_in(MPI_Comm comm) {
  int rank = 0;
  MPI_Comm_rank(comm, &rank);
  return rank;
}

int size_of(MPI_Comm comm) {
  int size = 1;
  MPI_Comm_size(comm, &size);
  return size;
}

/// By rank: the first rank of its node.
std::vector<int> nodes(MPI_Comm comm) {
  MPI_Comm node = MPI_COMM_NULL;
  int first = rank_in(comm);
  MPI_Comm_split_type(comm, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node);
  MPI_Bcast(&first, 1, MPI_INT, 0, node);
  MPI_Comm_free(&node);
  std::vector<int> first_of(static_cast<std::size_t>(size_of(comm)));
  MPI_Allgather(&first, 1, MPI_INT, first_of.data(), 1, MPI_INT, comm);
  return first_of;
}

int largest_tag() {
  int* value = nullptr;
  int is_there = 0;
  MPI_Comm_get_attr(MPI_COMM_WORLD, MPI_TAG_UB, static_cast<void*>(&value), &is_there);
  return is_there != 0 ? *value : 32767;  // what any MPI has
}

}  // namespace

struct MpiWorld::State {
  State(MpiOptions chosen, MPI_Comm comm)
      : options(std::move(chosen)),
        rank(rank_in(comm)),
        size(size_of(comm)),
        node_of(nodes(comm)),
        wire{.comm = comm, .largest_piece = options.largest_piece, .warn = options.warn, .heard = MpiHeard(size)} {}

  MpiOptions options;
  int rank, size;
  int exceptions_at_start = std::uncaught_exceptions();
  std::vector<int> node_of;  // by rank: equal on one node
  MpiWire wire;
  std::int64_t next_group = 1;  // ids; of the thread that splits
  MPI_Comm control = MPI_COMM_NULL;
  AbortMessage incoming, outgoing;
  MPI_Request abort_request = MPI_REQUEST_NULL;
  std::once_flag sent;
  int leaves_clean = 0;
  std::vector<int> all_leave_clean;
  std::optional<RollCall> roll_call;
  std::unique_ptr<Engine> engine;

  std::shared_ptr<MpiGroup> make_group(std::int64_t id, std::string name, std::vector<int> ranks) const {
    auto group = std::make_shared<MpiGroup>();
    check(id <= largest_tag() / 2, "mpi: group {} is number {}, expected fewer groups", name, id);
    group->id = static_cast<int>(id);
    group->name = std::move(name);
    group->ranks = std::move(ranks);
    group->rank = static_cast<int>(std::find(group->ranks.begin(), group->ranks.end(), rank) - group->ranks.begin());
    group->may_share = options.shares_memory && std::all_of(group->ranks.begin(), group->ranks.end(), [&](int r) {
                         return node_of[static_cast<std::size_t>(r)] == node_of[static_cast<std::size_t>(rank)];
                       });
    group->reads_directly = options.reads_directly;
    return group;
  }

  HeldUp who_is_missing(const std::vector<Missing>& missing) {
    const auto answers = roll_call->answers();
    return tell_missing(missing, [&](int r) { return answers[static_cast<std::size_t>(r)]; });
  }

  std::string who_is_silent(std::vector<Missing> missing) {
    std::erase_if(missing, [&](const Missing& m) { return roll_call->owes_for(m.rank) < options.deadline; });
    roll_call->ask();
    return tell_missing(missing, [](int) { return std::optional<Whereabouts>(); }).who;
  }

  /// Tells every rank, once, and fails here.
  void stop(const std::string& why) {
    std::call_once(sent, [&] {
      outgoing.origin = rank;
      why.copy(outgoing.text.data(), outgoing.text.size() - 1);
      for (int r = 0; r < size; ++r) {
        MPI_Request request = MPI_REQUEST_NULL;
        if (r != rank) MPI_Isend(&outgoing, sizeof(outgoing), MPI_BYTE, r, tag_abort, control, &request);
        if (r != rank) MPI_Request_free(&request);
      }
    });
    engine->fail(rank, why);
  }

  void hear() {
    int has_come = 0;
    roll_call->poll();
    if (abort_request == MPI_REQUEST_NULL) return;
    MPI_Test(&abort_request, &has_come, MPI_STATUS_IGNORE);
    if (has_come != 0) engine->fail(incoming.origin, incoming.text.data());
  }

  /// True if no rank has a transfer that is stuck.
  bool take_leave(bool is_clean) {
    const auto until = std::chrono::steady_clock::now() + grace;
    // Not on the stack: where a peer does not answer, the messages are still under way when this returns.
    leaves_clean = is_clean ? 1 : 0;
    all_leave_clean.assign(static_cast<std::size_t>(size), 1);
    std::vector<MPI_Request> requests;
    for (int r = 0; r < size; ++r) {
      if (r == rank) continue;
      requests.emplace_back();
      MPI_Irecv(&all_leave_clean[static_cast<std::size_t>(r)], 1, MPI_INT, r, tag_leave, control, &requests.back());
      requests.emplace_back();
      MPI_Isend(&leaves_clean, 1, MPI_INT, r, tag_leave, control, &requests.back());
    }
    int is_done = 0;
    while (is_done == 0 && std::chrono::steady_clock::now() < until) {
      MPI_Testall(static_cast<int>(requests.size()), requests.data(), &is_done, MPI_STATUSES_IGNORE);
      if (is_done == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    if (is_done == 0 || !is_clean) return false;
    for (const int other : all_leave_clean) is_clean = is_clean && other == 1;
    return is_clean;
  }

  void finalise() {
    if (abort_request != MPI_REQUEST_NULL) {
      MPI_Cancel(&abort_request);
      MPI_Wait(&abort_request, MPI_STATUS_IGNORE);
    }
    roll_call->close();
    MPI_Comm_free(&wire.comm);
    MPI_Comm_free(&control);
    MPI_Finalize();
  }
};

class MpiWorld::Member final : public QueuedComm {
 public:
  Member(std::shared_ptr<State> state, std::shared_ptr<MpiGroup> group)
      : QueuedComm(group->id, group->name, group->rank, group->size()),
        state_(std::move(state)),
        group_(std::move(group)) {}

  /// Needs no call of MPI's own, which would know no deadline: the ranks agree on who belongs together, and on an id
  /// that none of them has used.
  std::shared_ptr<WorldComm> split(int color, int key, const std::string& name) override {
    Split mine = agree_on_split(color, key, state_->next_group);
    for (int& r : mine.ranks) r = group_->in_world(r);
    state_->next_group = mine.note + 1;
    return std::make_shared<Member>(state_, state_->make_group(mine.note, name, std::move(mine.ranks)));
  }

  void abort(const std::string& why) override { state_->stop(why); }
  Engine& engine() override { return *state_->engine; }
  int in_world(int rank) const override { return group_->in_world(rank); }

 private:
  std::shared_ptr<Operation> make_operation(Call call, std::int64_t sequence) override {
    return std::make_shared<MpiTransfer>(state_->wire, group_, std::move(call), sequence);
  }

  std::int64_t told_whole() const override { return MpiTransfer::small_bytes; }

  std::shared_ptr<State> state_;
  std::shared_ptr<MpiGroup> group_;
};

MpiWorld::MpiWorld(MpiOptions options) : state_(std::make_shared<State>(std::move(options), start_mpi())) {
  State& s = *state_;
  MPI_Comm_dup(s.wire.comm, &s.control);
  MPI_Irecv(&s.incoming, sizeof(s.incoming), MPI_BYTE, MPI_ANY_SOURCE, tag_abort, s.control, &s.abort_request);
  s.roll_call.emplace(s.control, [&s] { return s.engine->answer(); });
  s.engine = std::make_unique<Engine>(
      s.rank, s.options.deadline,
      Engine::World{.stop = [&s](const std::string& why) { s.stop(why); },
                    .who_is_missing = [&s](const auto& missing) { return s.who_is_missing(missing); },
                    .who_is_silent = [&s](const auto& missing) { return s.who_is_silent(missing); },
                    .poll = s.size > 1 ? [&s] { s.hear(); } : std::function<void()>(),
                    .node_of = s.node_of,
                    .warn = s.options.warn});
  s.engine->start();
}

MpiWorld::~MpiWorld() {
  State& s = *state_;
  if (std::uncaught_exceptions() > s.exceptions_at_start && !s.engine->has_failed())
    s.stop(fmt::format("rank {} has left the world by an error", s.rank));
  const bool has_failed = s.engine->has_failed();
  const bool is_clean = s.engine->stop();
  if ((has_failed || !is_clean) && !s.take_leave(is_clean)) {
    // Transfers are stuck, so MPI cannot be finalised. The process goes on, to report its error and end; MPI's buffers
    // must outlive it.
    new std::shared_ptr<State>(state_);
    return;
  }
  s.finalise();
}

int MpiWorld::rank() const { return state_->rank; }
int MpiWorld::size() const { return state_->size; }

std::shared_ptr<WorldComm> MpiWorld::comm() {
  std::vector<int> everybody(static_cast<std::size_t>(state_->size));
  std::iota(everybody.begin(), everybody.end(), 0);
  return std::make_shared<Member>(state_, state_->make_group(0, "world", std::move(everybody)));
}

bool MpiWorld::has_launcher() {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMI_RANK", "PMIX_RANK"})
    if (std::getenv(name) != nullptr) return true;
  return false;
}

}  // namespace limbeck::parallel
