#include "parallel/mpi/mpi_world.h"

#include <mpi.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <mutex>
#include <vector>

#include "parallel/comm/queued_comm.h"
#include "parallel/mpi/mpi_transfer.h"

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

MPI_Comm start_mpi() {
  int was_initialised = 0, provided = 0;
  MPI_Initialized(&was_initialised);
  check(was_initialised == 0, "mpi: a process has one MpiWorld, a second was made");
  MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &provided);
  check(provided == MPI_THREAD_MULTIPLE, "mpi: the library does not allow calls from several threads");
  MPI_Comm world = MPI_COMM_NULL;
  MPI_Comm_dup(MPI_COMM_WORLD, &world);
  return world;
}

}  // namespace

struct MpiWorld::State {
  Deadline deadline;
  int exceptions_at_start = std::uncaught_exceptions();
  std::vector<std::unique_ptr<MpiGroup>> groups;  // the first is the world
  MPI_Comm control = MPI_COMM_NULL;
  AbortMessage incoming, outgoing;
  MPI_Request abort_request = MPI_REQUEST_NULL;
  std::once_flag sent;
  int leaves_clean = 0;
  std::vector<int> all_leave_clean;
  std::unique_ptr<Engine> engine;

  int rank() const { return groups[0]->rank; }
  int size() const { return groups[0]->size; }

  MpiGroup& add_group(MPI_Comm comm, const std::string& name) {
    MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN);
    auto group = std::make_unique<MpiGroup>();
    group->id = static_cast<int>(groups.size());
    group->name = name;
    group->comm = comm;
    MPI_Comm_rank(comm, &group->rank);
    MPI_Comm_size(comm, &group->size);
    if (group->size > 1) {
      MPI_Comm node = MPI_COMM_NULL;
      int on_node = 0;
      MPI_Comm_split_type(comm, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node);
      MPI_Comm_size(node, &on_node);
      MPI_Comm_free(&node);
      if (on_node == group->size) group->segment = std::make_unique<SharedSegment>(comm);
    }
    groups.push_back(std::move(group));
    return *groups.back();
  }

  /// Tells every rank, once, and fails here.
  void stop(const std::string& why) {
    std::call_once(sent, [&] {
      outgoing.origin = rank();
      why.copy(outgoing.text.data(), outgoing.text.size() - 1);
      for (int r = 0; r < size(); ++r) {
        MPI_Request request = MPI_REQUEST_NULL;
        if (r != rank()) MPI_Isend(&outgoing, sizeof(outgoing), MPI_BYTE, r, tag_abort, control, &request);
        if (r != rank()) MPI_Request_free(&request);
      }
    });
    engine->fail(rank(), why);
  }

  void hear() {
    int has_come = 0;
    if (abort_request == MPI_REQUEST_NULL) return;
    MPI_Test(&abort_request, &has_come, MPI_STATUS_IGNORE);
    if (has_come != 0) engine->fail(incoming.origin, incoming.text.data());
  }

  /// True if no rank has a transfer that is stuck.
  bool take_leave(bool is_clean) {
    const auto until = std::chrono::steady_clock::now() + grace;
    // Not on the stack: where a peer does not answer, the messages are still under way when this returns.
    leaves_clean = is_clean ? 1 : 0;
    all_leave_clean.assign(static_cast<std::size_t>(size()), 1);
    std::vector<MPI_Request> requests;
    for (int r = 0; r < size(); ++r) {
      if (r == rank()) continue;
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
    for (const auto& group : groups) {
      group->segment.reset();
      MPI_Comm_free(&group->comm);
    }
    MPI_Comm_free(&control);
    MPI_Finalize();
  }
};

class MpiWorld::Member final : public QueuedComm {
 public:
  Member(std::shared_ptr<State> state, MpiGroup& group)
      : QueuedComm(group.id, group.name, group.rank, group.size), state_(std::move(state)), group_(group) {}

  std::shared_ptr<WorldComm> split(int color, int key, const std::string& name) override {
    barrier();  // MPI's own calls below have no deadline
    MPI_Comm comm = MPI_COMM_NULL;
    check(MPI_Comm_split(group_.comm, color, key, &comm) == MPI_SUCCESS, "mpi: group {} could not be split",
          group_.name);
    return std::make_shared<Member>(state_, state_->add_group(comm, name));
  }

  void abort(const std::string& why) override { state_->stop(why); }

 private:
  std::shared_ptr<Operation> make_operation(Call call, std::int64_t sequence) override {
    return std::make_shared<MpiTransfer>(group_, std::move(call), sequence);
  }
  Engine& engine() override { return *state_->engine; }

  std::shared_ptr<State> state_;
  MpiGroup& group_;
};

MpiWorld::MpiWorld(Deadline deadline) : state_(std::make_shared<State>()) {
  State& s = *state_;
  s.deadline = deadline;
  s.add_group(start_mpi(), "world");
  MPI_Comm_dup(s.groups[0]->comm, &s.control);
  MPI_Irecv(&s.incoming, sizeof(s.incoming), MPI_BYTE, MPI_ANY_SOURCE, tag_abort, s.control, &s.abort_request);
  s.engine = std::make_unique<Engine>(
      s.rank(), deadline, Engine::Idle::Poll, [&s](const std::string& why) { s.stop(why); }, [&s] { s.hear(); });
}

MpiWorld::~MpiWorld() {
  State& s = *state_;
  if (std::uncaught_exceptions() > s.exceptions_at_start && !s.engine->has_failed())
    s.stop(fmt::format("rank {} has left the world by an error", s.rank()));
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

int MpiWorld::rank() const { return state_->rank(); }
int MpiWorld::size() const { return state_->size(); }
std::shared_ptr<WorldComm> MpiWorld::comm() { return std::make_shared<Member>(state_, *state_->groups[0]); }

bool MpiWorld::has_launcher() {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMI_RANK", "PMIX_RANK"})
    if (std::getenv(name) != nullptr) return true;
  return false;
}

}  // namespace limbeck::parallel
