#include "parallel/mpi/roll_call.h"

#include <algorithm>
#include <chrono>
#include <string>
#include <utility>

namespace limbeck::parallel {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto patience = std::chrono::seconds(1);

using Text = std::array<char, 256>;

void put(const std::string& text, Text& wire) { text.copy(wire.data(), wire.size() - 1); }
std::string text_of(const Text& wire) { return {wire.begin(), std::ranges::find(wire, '\0')}; }

}  // namespace

RollCall::RollCall(MPI_Comm comm, std::function<Whereabouts()> here) : comm_(comm), here_(std::move(here)) {
  MPI_Comm_rank(comm, &rank_);
  MPI_Comm_size(comm, &size_);
  const auto size = static_cast<std::size_t>(size_);
  answering_.assign(size, MPI_REQUEST_NULL);
  owes_since_.resize(size);
  answers_.resize(size);
  listen();
}

void RollCall::listen() { MPI_Irecv(&question_, 1, MPI_BYTE, MPI_ANY_SOURCE, tag_question, comm_, &listening_); }

void RollCall::poll() {
  // All that have come: of many ranks that wait, each asks, and one that has nothing to do is here seldom.
  while (listening_ != MPI_REQUEST_NULL) {
    int has_come = 0;
    MPI_Status status;
    MPI_Test(&listening_, &has_come, &status);
    if (has_come == 0) break;
    reply(status.MPI_SOURCE);
    listen();
  }
  const std::scoped_lock lock(mutex_);
  if (num_open_ == 0) return;
  send_questions();
  take_answers();
}

void RollCall::reply(int to) {
  Answer& mine = replies_[to] = to_wire(here_());
  MPI_Request request = MPI_REQUEST_NULL;
  MPI_Isend(&mine, sizeof(Answer), MPI_BYTE, to, tag_answer, comm_, &request);
  MPI_Request_free(&request);
}

void RollCall::send_questions() {
  incoming_.resize(static_cast<std::size_t>(size_));
  for (int r = 0; r < size_; ++r) {
    const auto at = static_cast<std::size_t>(r);
    if (!owes_since_[at] || answering_[at] != MPI_REQUEST_NULL) continue;
    MPI_Irecv(&incoming_[at], sizeof(Answer), MPI_BYTE, r, tag_answer, comm_, &answering_[at]);
    MPI_Request request = MPI_REQUEST_NULL;
    MPI_Isend(&question_, 1, MPI_BYTE, r, tag_question, comm_, &request);
    MPI_Request_free(&request);
  }
}

void RollCall::take_answers() {
  for (std::size_t r = 0; r < answering_.size(); ++r) {
    int has_come = 0;
    if (answering_[r] == MPI_REQUEST_NULL) continue;
    MPI_Test(&answering_[r], &has_come, MPI_STATUS_IGNORE);
    if (has_come == 0) continue;
    answers_[r] = from_wire(incoming_[r]);
    owes_since_[r].reset();
    if (--num_open_ == 0) all_answered_.notify_all();
  }
}

void RollCall::ask_those_that_answered() {
  for (int r = 0; r < size_; ++r) {
    const auto at = static_cast<std::size_t>(r);
    if (r == rank_ || owes_since_[at]) continue;
    owes_since_[at] = Clock::now();
    answers_[at].reset();
    ++num_open_;
  }
}

void RollCall::ask() {
  const std::scoped_lock lock(mutex_);
  ask_those_that_answered();
}

std::vector<std::optional<Whereabouts>> RollCall::answers() {
  std::unique_lock lock(mutex_);
  ask_those_that_answered();
  all_answered_.wait_for(lock, patience, [&] { return num_open_ == 0; });
  std::vector<std::optional<Whereabouts>> answers = answers_;
  lock.unlock();
  answers[static_cast<std::size_t>(rank_)] = here_();
  return answers;
}

Clock::duration RollCall::owes_for(int rank) const {
  const std::scoped_lock lock(mutex_);
  const auto& since = owes_since_[static_cast<std::size_t>(rank)];
  return since ? Clock::now() - *since : Clock::duration::zero();
}

void RollCall::close() {
  answering_.push_back(std::exchange(listening_, MPI_REQUEST_NULL));
  for (MPI_Request& request : answering_) {
    if (request == MPI_REQUEST_NULL) continue;
    MPI_Cancel(&request);
    MPI_Wait(&request, MPI_STATUS_IGNORE);
  }
}

RollCall::WireSign RollCall::to_wire(const Sign& sign) {
  WireSign wire{sign.step, sign.number, {}};
  put(sign.operation, wire.operation);
  return wire;
}

Sign RollCall::from_wire(const WireSign& sign) { return {sign.step, sign.number, text_of(sign.operation)}; }

RollCall::Answer RollCall::to_wire(const Whereabouts& here) {
  Answer answer{};
  answer.at = to_wire(here.at);
  answer.is_waiting = here.is_waiting ? 1 : 0;
  put(here.disk, answer.disk);
  answer.num_missing = static_cast<int>(std::min(here.waits_for.size(), std::size(answer.missing)));
  for (int i = 0; i < answer.num_missing; ++i) {
    const Missing& missing = here.waits_for[static_cast<std::size_t>(i)];
    answer.missing[i] = {missing.rank, to_wire(missing.heard)};
  }
  return answer;
}

Whereabouts RollCall::from_wire(const Answer& answer) const {
  Whereabouts there{.at = from_wire(answer.at), .is_waiting = answer.is_waiting != 0, .disk = text_of(answer.disk)};
  const int most = static_cast<int>(std::size(answer.missing));
  for (int i = 0; i < std::min(answer.num_missing, most); ++i)
    if (const auto& [rank, heard] = answer.missing[i]; rank >= 0 && rank < size_)
      there.waits_for.push_back({rank, from_wire(heard)});
  return there;
}

}  // namespace limbeck::parallel
