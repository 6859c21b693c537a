// A teacher on ranks of its own (parallel.teacher_ranks): the last ranks of the world hold it, cut by a layout of their
// own, and run it over what the student's ranks read next while those are still at this step. Hidden states travel,
// never logits: the student's ranks have the teacher's head.
//
//     TeacherRanks place(world, /*teacher_ranks=*/2, student_layout, teacher_layout);
//     if (place.is_teacher()) return serve_teacher(rank, config, place);            // teacher_service.h
//     RemoteTeacher teacher(place, memory, {...});
//     teacher.ask(batches_of_the_next_step);
//     RemoteTeacher::Answer answer = teacher.take(batch);                         // waits for what is not there yet
//     ...
//     place.dismiss();
//
// Each data-parallel rank of the student, of a pipeline's last stage, where the head is, asks one replica of the
// teacher, number d of them replica d % replicas, which answers its askers in their order: so all of them ask equally
// often. A replica in stages is told on each what is asked, and the last one's ranks answer. Sequences are asked for
// whole, also those that several ranks of either side have parts of (cp): each of the student's is answered with its
// own tokens, by each of the teacher's with those of them that it has read.
#pragma once

#include <cstdint>
#include <deque>
#include <exception>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/device/memory.h"
#include "core/nn/cut_batch.h"
#include "core/tensor.h"
#include "data/text/loader.h"
#include "launch/run/read_tokens.h"
#include "parallel/axes/mesh.h"
#include "parallel/comm/world.h"

namespace limbeck::launch {

/// Who is what in the world, and how the two sides reach each other.
class TeacherRanks {
 public:
  /// Throws a UsageError where the layouts do not fit the numbers of ranks. Collective over `world`: both sides become
  /// groups.
  TeacherRanks(std::shared_ptr<parallel::WorldComm> world, int num_teachers, const parallel::Layout& student,
               const parallel::Layout& teacher);

  bool is_teacher() const { return world_->rank() >= num_students_; }
  /// Of this rank's side: its ranks have the world's order.
  const std::shared_ptr<parallel::WorldComm>& side() const { return side_; }
  core::Comm& world() const { return *world_; }

  // Of a rank of the student's.
  /// Whether it has what is asked for: of a pipeline the last stage's ranks, of which alone the rest is.
  bool takes_answers() const { return !is_teacher() && world_->rank() >= first_asker_; }
  /// The ranks of the world that are told what is asked, stage by stage.
  std::vector<int> replica() const;
  /// Those of them, of the last stage, that answer this rank: one for each part of the teacher's sequences.
  std::vector<int> answerers() const;
  /// Whether this rank asks for all that have the same sequences.
  bool asks() const { return takes_answers() && world_->rank() % student_group_ == 0; }
  /// Which tokens of its sequences a rank of the world, of either side, reads.
  nn::ContextPlace place_of(int rank) const;
  /// Those of `num_sequences` that are asked for.
  ReadTokens read_by(int rank, std::int64_t num_sequences) const { return {{0, num_sequences}, place_of(rank)}; }
  /// No rank asks any more: the teacher's ranks end.
  void dismiss();

  // Of a rank of the teacher's.
  int num_replicas() const { return ranks_of_stage() / teacher_group_; }
  /// Data-parallel ranks of the student.
  int num_askers() const { return (num_students_ - first_asker_) / student_group_; }
  int replica_number() const { return side_->rank() % ranks_of_stage() / teacher_group_; }
  /// The rank of the world that asks for data-parallel rank `asker`, and those that this rank, where it is of the last
  /// stage, answers.
  int rank_of_asker(int asker) const { return first_asker_ + asker * student_group_; }
  std::vector<int> answered_ranks(int asker) const;

 private:
  int ranks_of_stage() const { return num_teachers_ - first_answerer_; }

  std::shared_ptr<parallel::WorldComm> world_, side_;
  int num_students_, num_teachers_, student_tp_, teacher_tp_;
  int student_group_, teacher_group_;  // ranks of a stage, one behind the other, that have the same sequences
  int first_asker_;                    // of the world: the first rank of the student's last stage
  int first_answerer_;                 // of the teacher's ranks: likewise
};

/// What is asked: sequences of a text, and layers whose hidden states are wanted too. Travels as a head of whole
/// numbers, the layers, and [3,T] int32: tokens, positions, documents.
struct TeacherQuestion {
  enum class Kind : std::int64_t {
    Text,
    Name,  // the model's fingerprint is asked for
    End,   // nothing is asked any more
  };
  Kind kind = Kind::Text;
  std::int64_t num_sequences = 0;
  std::int64_t sequence_length = 0;
  std::vector<std::int64_t> layers = {};
  std::vector<std::int32_t> columns = {};  // [3 T]
};
TeacherQuestion question_of(const data::TokenBatch& text, std::vector<std::int64_t> layers);
void send_question(core::Comm& world, int to, const TeacherQuestion& question, std::vector<core::CommHandle>& sent);
/// Waits as long as it takes, unless the world is stopped. Throws where what came cannot be a question.
TeacherQuestion receive_question(core::Comm& world, int from);

inline constexpr std::int64_t teacher_fingerprint_length = 16;

class RemoteTeacher {
 public:
  /// What an answer is of: hidden states behind the last norm [T,width], and the stream's behind layers.
  struct Form {
    std::int64_t width = 0;
    core::DType hidden = core::DType::F32;
    core::DType stream = core::DType::F32;
    std::string fingerprint = {};  // that the teacher's ranks have to have, too
    core::MemoryPtr arrival = {};  // where answers arrive; null: the host's memory
  };
  /// Collective over the student's ranks that take answers, as all that asks. Waits until the teacher's ranks have
  /// their model, as long as that takes; throws where it is another.
  RemoteTeacher(const TeacherRanks& ranks, core::MemoryPtr memory, Form form);
  ~RemoteTeacher();  // waits for what is under way
  RemoteTeacher(const RemoteTeacher&) = delete;
  RemoteTeacher& operator=(const RemoteTeacher&) = delete;

  /// The layers whose hidden states are answered from now on; what was asked before is forgotten.
  void want_layers(std::vector<std::int64_t> layers);
  /// The head [V_local,Ct] and its bias, which answers have for whoever makes logits of them.
  void keep_head(core::Tensor head, core::Tensor bias) { head_ = std::move(head), head_bias_ = std::move(bias); }

  /// Collective likewise, as often on each: these, of whole sequences, are taken next. One without sequences counts
  /// too.
  void ask(const std::vector<data::TokenBatch>& batches);
  bool has_asked() const { return !asked_.empty(); }

  /// Of the tokens T that this rank takes of a batch (TeacherRanks::place_of).
  struct Answer {
    core::Tensor hidden = {};  // [T,Ct], behind the last norm
    core::Tensor head = {}, head_bias = {};
    std::map<std::int64_t, core::Tensor> layers = {};  // [T,Ct] each
  };
  /// Collective likewise. Of a batch that was not asked for, or not in this order, it is asked now. What asks the
  /// teacher's ranks to stop (stop_flag.h) asks this one from here on.
  Answer take(const data::TokenBatch& batch);
  /// That ask() and take() took, since the last call.
  double take_wait_seconds() { return std::exchange(wait_seconds_, 0); }

 private:
  /// Rows of this rank's tokens, by the ranks that answer, in their order.
  using Parts = std::vector<core::Tensor>;
  struct Asked {
    std::vector<std::int32_t> tokens;
    std::vector<std::vector<CommonRows>> ways;  // of each that answers its rows, as first, in this rank's
    Parts hidden = {};
    std::map<std::int64_t, Parts> layers = {};
    core::Tensor wants_stop = {};                  // [answers] int64: a rank of the teacher's was asked to stop
    std::vector<core::CommHandle> under_way = {};  // both ways
    void wait();
    core::Tensor whole(const Parts& parts) const;
  };
  /// What is on its way to the replica.
  std::vector<core::CommHandle> send(const TeacherQuestion& question) const;
  void ask_one(const data::TokenBatch& batch);
  void forget_asked();
  void check_fingerprint() const;

  const TeacherRanks& ranks_;
  core::MemoryPtr memory_, arrival_;
  Form form_;
  std::vector<std::int64_t> layers_;
  core::Tensor head_, head_bias_;
  std::deque<Asked> asked_;
  int exceptions_ = std::uncaught_exceptions();
  double wait_seconds_ = 0;
};

}  // namespace limbeck::launch
