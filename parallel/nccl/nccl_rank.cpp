#include "parallel/nccl/nccl_rank.h"

#include <algorithm>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <utility>

#include "core/start_thread.h"
#include "kernels/cuda/polling.h"

namespace limbeck::parallel {

using kernels::check_cuda;
using kernels::is_done;
using Clock = std::chrono::steady_clock;
using namespace std::chrono_literals;

namespace {

constexpr auto glance = 20ms;    // how soon the watch sees that the world has failed
constexpr auto longest = 100ms;  // between its looks at what is under way
constexpr auto grace = 2s;

/// NCCL's own order of several communicators' operations is that of the host's calls, which is one on all ranks;
/// without it kernels of two communicators may wait for each other's. Whoever sets the variable is left alone.
void ask_for_one_order() {
  static std::once_flag once;
  std::call_once(once, [] { ::setenv("NCCL_LAUNCH_ORDER_IMPLICIT", "1", /*overwrite=*/0); });
}

ncclUniqueId agree_on_id(WorldComm& group) {
  ncclUniqueId id{};
  if (group.rank() == 0) check_nccl(ncclGetUniqueId(&id), "group " + group.name());
  const std::vector<std::byte> all = gathered(group, &id, sizeof id);
  std::copy_n(all.data(), sizeof id, reinterpret_cast<std::byte*>(&id));
  return id;
}

cudaEvent_t new_event() {
  cudaEvent_t event = nullptr;
  check_cuda(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  return event;
}

/// Before compute in the GPU's queue of blocks: what others wait for.
cudaStream_t new_stream() {
  int least = 0, greatest = 0;
  check_cuda(cudaDeviceGetStreamPriorityRange(&least, &greatest));
  cudaStream_t stream = nullptr;
  check_cuda(cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, greatest));
  return stream;
}

}  // namespace

std::vector<std::byte> gathered(WorldComm& group, const void* mine, std::int64_t bytes) {
  const auto memory = core::Memory::cpu(1);
  core::Tensor part = core::Tensor::empty(memory, core::DType::U8, {bytes}),
               all = core::Tensor::empty(memory, core::DType::U8, {group.size() * bytes});
  std::copy_n(static_cast<const std::byte*>(mine), bytes, part.mutable_host_raw());
  group.all_gather(part, all);
  return {all.host_raw(), all.host_raw() + all.bytes()};
}

void check_nccl(ncclResult_t result, const std::string& what) {
  core::check(result == ncclSuccess, "{}: NCCL says {}", what, ncclGetErrorString(result));
}

/// What the rank and its watch share.
struct NcclState {
  NcclState(std::shared_ptr<WorldComm> all, kernels::Cuda device)
      : world(std::move(all)),
        engine(world->engine()),
        cuda(std::move(device)),
        waits(std::make_shared<kernels::TimedWaits>(cuda.state->stream, comm_axis_names.size())) {}

  std::shared_ptr<WorldComm> world;
  Engine& engine;
  kernels::Cuda cuda;
  std::shared_ptr<kernels::TimedWaits> waits;  // of the rank's kernels for collectives, by axis

  std::mutex mutex;  // of NCCL's calls, and of all that follows
  std::condition_variable changed;
  std::vector<std::unique_ptr<NcclChannel>> channels;
  bool is_aborted = false;  // the communicators are nobody's any more
  bool is_over = false;     // the watch may go
  bool aborts = false;      // but aborts before
  bool has_gone = false;

  /// An operation whose limit is to be looked at.
  struct Late {
    std::shared_ptr<NcclOperation> operation;
    std::vector<Missing> missing;
  };

  NcclChannel& open(WorldComm& group);
  void close();
  void watch();
  std::optional<Late> look();
  void abort_all();
  std::optional<Whereabouts> whereabouts();

  /// Waits, with the lock, until what was asked of NCCL is done; throws where it fails, misses the deadline, or the
  /// world has failed. `what` is asked then alone.
  void settle(std::unique_lock<std::mutex>& lock, const NcclChannel& channel, ncclResult_t result,
              const std::function<std::string()>& what);
  /// Those that have not come to their end, the first of them first.
  static void forget_done(NcclChannel& channel);
  static std::vector<Missing> missing_in(const NcclChannel& channel);
};

std::vector<Missing> NcclState::missing_in(const NcclChannel& channel) {
  std::vector<Missing> missing;
  for (const int rank : channel.others_) missing.push_back({.rank = rank, .heard = {}});
  return missing;
}

void NcclState::settle(std::unique_lock<std::mutex>& lock, const NcclChannel& channel, ncclResult_t result,
                       const std::function<std::string()>& what) {
  const auto check = [&](ncclResult_t got) {
    if (got != ncclSuccess) check_nccl(got, what());
  };
  WaitLimit limit(engine.deadline(), Clock::now());
  for (kernels::Polling polling; result == ncclInProgress;) {
    lock.unlock();
    if (Clock::now() >= limit.next_look()) engine.look(limit, what(), missing_in(channel));
    engine.check();
    polling.pause();
    lock.lock();
    if (is_aborted) continue;  // the world has failed
    check(ncclCommGetAsyncError(channel.comm_, &result));
  }
  check(result);
}

// Operations of a stream end in their order.
void NcclState::forget_done(NcclChannel& channel) {
  auto& all = channel.under_way_;
  all.erase(all.begin(), std::partition_point(all.begin(), all.end(), [](const auto& o) { return is_done(o->done_); }));
}

std::optional<NcclState::Late> NcclState::look() {
  const auto now = Clock::now();
  for (const auto& channel : channels) {
    if (channel->comm_ == nullptr) continue;
    ncclResult_t result = ncclSuccess;
    check_nccl(ncclCommGetAsyncError(channel->comm_, &result), "group " + channel->name_);
    if (result != ncclInProgress) check_nccl(result, "group " + channel->name_);
    forget_done(*channel);
    if (channel->under_way_.empty()) continue;
    NcclOperation& first = *channel->under_way_.front();
    if (!first.limit_ && is_done(first.begins_)) first.limit_.emplace(engine.deadline(), now);
    if (first.limit_ && now >= first.limit_->next_look())
      return Late{channel->under_way_.front(), missing_in(*channel)};
  }
  return {};
}

void NcclState::watch() {
  const auto between = std::clamp<Deadline>(engine.deadline() / 10, 1ms, longest);
  auto next = Clock::now();
  std::unique_lock lock(mutex);
  try {
    check_cuda(cudaSetDevice(cuda.ordinal));
    while (!is_over && !engine.has_failed()) {
      changed.wait_for(lock, std::min<Deadline>(between, glance), [&] { return is_over; });
      if (is_over || Clock::now() < next) continue;
      const std::optional<Late> late = look();
      next = Clock::now() + between;
      if (!late) continue;
      lock.unlock();
      engine.look(*late->operation->limit_, describe(late->operation->called_), late->missing);
      lock.lock();
    }
  } catch (const std::exception& error) {
    if (lock) lock.unlock();
    world->abort(error.what());
    lock.lock();
  }
  is_aborted = aborts || engine.has_failed();
  lock.unlock();
  if (is_aborted) abort_all();
  lock.lock();
  has_gone = true;
  changed.notify_all();
}

// In a group: one alone may wait for the GPU, which waits for another's.
void NcclState::abort_all() {
  ncclGroupStart();
  for (const auto& channel : channels)
    if (ncclComm_t comm = std::exchange(channel->comm_, nullptr)) ncclCommAbort(comm);
  ncclGroupEnd();
}

std::optional<Whereabouts> NcclState::whereabouts() {
  const std::scoped_lock lock(mutex);
  for (const auto& channel : channels) {
    forget_done(*channel);
    if (channel->under_way_.empty() || !is_done(channel->under_way_.front()->begins_)) continue;
    Whereabouts here;
    here.at = {.step = 0, .number = 1, .operation = describe_here(channel->under_way_.front()->called_)};
    here.is_waiting = true;
    here.waits_for = missing_in(*channel);
    return here;
  }
  return {};
}

NcclOperation::NcclOperation(CallName name, cudaStream_t kernels, std::shared_ptr<kernels::TimedWaits> waits,
                             CommAxis axis)
    : called_(std::move(name)),
      kernels_(kernels),
      waits_(std::move(waits)),
      axis_(axis),
      begins_(new_event()),
      done_(new_event()) {}

NcclOperation::~NcclOperation() {
  cudaEventDestroy(begins_);
  cudaEventDestroy(done_);
}

void NcclOperation::hold_kernels() const { waits_->wait_for(done_, static_cast<std::size_t>(axis_)); }

NcclChannel::NcclChannel(NcclState& state, WorldComm& group)
    : state_(state), name_(group.name()), axis_(axis_of(name_)), stream_(new_stream()) {
  for (int r = 0; r < group.size(); ++r)
    if (r != group.rank()) others_.push_back(group.in_world(r));
}

NcclChannel::~NcclChannel() { cudaStreamDestroy(stream_); }

std::shared_ptr<NcclOperation> NcclChannel::queue(const CallName& called, const Start& start) {
  state_.engine.check();
  state_.engine.note(called);
  auto operation = std::make_shared<NcclOperation>(called, state_.cuda.state->stream, state_.waits, axis_);
  std::unique_lock lock(state_.mutex);
  if (state_.is_aborted) state_.engine.check();
  check_cuda(cudaEventRecord(operation->begins_, operation->kernels_));
  check_cuda(cudaStreamWaitEvent(stream_, operation->begins_, 0));
  check_cuda(cudaEventRecord(operation->begins_, stream_));
  state_.settle(lock, *this, start(comm_, stream_), [&called] { return describe(called); });
  check_cuda(cudaEventRecord(operation->done_, stream_));
  under_way_.push_back(operation);
  return operation;
}

NcclChannel& NcclState::open(WorldComm& group) {
  const ncclUniqueId id = agree_on_id(group);
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  std::unique_lock lock(mutex);
  if (is_aborted) engine.check();
  auto channel = std::make_unique<NcclChannel>(*this, group);
  const ncclResult_t result = ncclCommInitRankConfig(&channel->comm_, group.size(), id, group.rank(), &config);
  NcclChannel& opened = *channels.emplace_back(std::move(channel));
  settle(lock, opened, result, [&group] { return "the start of NCCL in group " + group.name(); });
  return opened;
}

// A communicator is not destroyed while it has work.
void NcclState::close() {
  std::unique_lock lock(mutex);
  for (const auto& channel : channels) {
    if (channel->under_way_.empty()) continue;
    const std::shared_ptr<NcclOperation> last = channel->under_way_.back();
    lock.unlock();
    cuda.state->wait_for(last->done_);
    lock.lock();
  }
  if (is_aborted) engine.check();
  for (const auto& channel : channels)
    settle(lock, *channel, ncclCommFinalize(channel->comm_),
           [&channel] { return "the end of NCCL in group " + channel->name_; });
  for (const auto& channel : channels) ncclCommDestroy(std::exchange(channel->comm_, nullptr));
  channels.clear();
}

NcclRank::NcclRank(std::shared_ptr<WorldComm> world, const kernels::Cuda& cuda)
    : state_(std::make_shared<NcclState>(std::move(world), cuda)), exceptions_at_start_(std::uncaught_exceptions()) {
  ask_for_one_order();
  cuda.state->while_waiting = [&engine = state_->engine] { engine.check(); };
  state_->engine.set_elsewhere([state = std::weak_ptr(state_)]() -> std::optional<Whereabouts> {
    const auto here = state.lock();
    try {
      return here ? here->whereabouts() : std::nullopt;
    } catch (const std::exception&) {
      return {};  // the device has failed, which its next use tells; who asks is another thread, perhaps another rank's
    }
  });
  state_->engine.tally().set_before_take([waits = state_->waits](CommTally& tally) {
    for (std::size_t axis = 0; axis < comm_axis_names.size(); ++axis)
      tally.waited(static_cast<CommAxis>(axis), waits->take(axis));
  });
  watch_ = core::start_thread("the watch over NCCL", [state = state_] { state->watch(); });
}

NcclChannel& NcclRank::open(WorldComm& group) { return state_->open(group); }

NcclRank::~NcclRank() {
  NcclState& s = *state_;
  bool is_good = std::uncaught_exceptions() == exceptions_at_start_ && !s.engine.has_failed();
  try {
    if (is_good) s.close();
  } catch (const std::exception&) {
    is_good = false;  // the world has failed, which those say that it failed for
  }
  const auto until = Clock::now() + grace;
  bool has_gone = false;
  {
    std::unique_lock lock(s.mutex);
    s.is_over = true;
    s.aborts = !is_good;
    s.changed.notify_all();
    has_gone = s.changed.wait_until(lock, until, [&] { return s.has_gone; });
  }
  s.engine.set_elsewhere(nullptr);
  s.engine.tally().set_before_take(nullptr);
  s.cuda.state->while_waiting = nullptr;
  if (has_gone && is_good) return;
  for (kernels::Polling polling; has_gone && cudaStreamQuery(s.cuda.state->stream) == cudaErrorNotReady;
       polling.pause())
    has_gone = Clock::now() < until;
  if (has_gone) return;
  s.cuda.state->is_given_up = true;
  watch_.detach();
}

}  // namespace limbeck::parallel
