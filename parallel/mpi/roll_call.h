// "Where are you?", asked of every rank and answered by their communication threads, also while they compute. A rank
// that is stopped does not answer; what the others heard of it last is in their answers.
//
//     RollCall call(control, [&] { return engine.answer(); });
//     call.poll();                                   // the communication thread, in every round
//     const auto answers = call.answers();           // another thread: when all have answered, or after a second
//     call.ask();                                    // or without waiting, now and then,
//     if (call.owes_for(3) > deadline) ...           // to see who is silent
#pragma once

#include <mpi.h>

#include <array>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <vector>

#include "parallel/comm/whereabouts.h"

namespace limbeck::parallel {

class RollCall {
 public:
  /// Nobody else uses these tags of the communicator.
  static constexpr int tag_question = 10, tag_answer = 11;

  RollCall(MPI_Comm comm, std::function<Whereabouts()> here);
  /// Of the communication thread.
  void poll();

  // Of any other thread.
  /// Asks every rank that does not owe an answer already.
  void ask();
  /// Asks likewise; by rank what all say, this one too, or within a second have said.
  std::vector<std::optional<Whereabouts>> answers();
  /// How long a rank has not answered what it was asked; zero: it has.
  std::chrono::steady_clock::duration owes_for(int rank) const;

  /// Before MPI is finalised, when the communication thread has ended.
  void close();

 private:
  struct WireSign {
    std::int64_t step, number;
    std::array<char, 256> operation;
  };
  struct Answer {  // plain bytes, below the size from which a send waits for its receiver
    WireSign at;
    int is_waiting, num_missing;
    std::array<char, 256> disk;
    struct {
      int rank;
      WireSign heard;
    } missing[8];
  };
  static WireSign to_wire(const Sign& sign);
  static Sign from_wire(const WireSign& sign);
  static Answer to_wire(const Whereabouts& here);
  /// Whatever the bytes are: of ranks that are none it has nothing.
  Whereabouts from_wire(const Answer& answer) const;
  void listen();
  void reply(int to);
  // With the lock:
  void ask_those_that_answered();
  void send_questions();
  void take_answers();

  MPI_Comm comm_;
  int rank_ = 0, size_ = 1;
  std::function<Whereabouts()> here_;
  char question_ = 0;
  MPI_Request listening_ = MPI_REQUEST_NULL;
  std::map<int, Answer> replies_;  // by asker; who asks again has had the one before
  std::vector<Answer> incoming_;   // by rank; none before the first question
  std::vector<MPI_Request> answering_;

  mutable std::mutex mutex_;
  std::condition_variable all_answered_;
  // By rank: since when it owes an answer, and what it said last, if it does not.
  std::vector<std::optional<std::chrono::steady_clock::time_point>> owes_since_;
  std::vector<std::optional<Whereabouts>> answers_;
  int num_open_ = 0;  // that owe one
};

}  // namespace limbeck::parallel
