// A teacher over the student's ranks, cut by a layout of its own (parallel.teacher_layout without teacher_ranks). In
// front of a step all ranks read its text by the teacher's layout, and what the teacher gives goes to those of the
// student's last stage, to each the rows of its own tokens. Hidden states travel, never logits: those ranks have the
// teacher's head.
//
//     Rank side(rank, "tp4", exchange);                            // beside a student's "dp4"
//     RelaidTeacher teacher(rank, side, {...});
//     teacher.take(load_teacher(side, ..., on_stage(side, ...), passes, log), sequence_length);
//     std::vector<RelaidTeacher::Answer> answers = teacher.read(text, micro_batches);
//
// Every rank knows who reads what under both layouts, so nothing is asked: an exchange among all ranks brings the rows
// of a pass to where they are wanted, and what a rank has for itself stays. No replica of the teacher is idle, whatever
// the student's layout, and of a teacher in stages each rank gives what its own layers gave.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "launch/run/batch.h"
#include "launch/run/pipeline.h"
#include "launch/run/rank.h"
#include "launch/run/read_tokens.h"
#include "launch/run/teacher_loading.h"
#include "launch/run/teacher_ranks.h"

namespace limbeck::launch {

class RelaidTeacher {
 public:
  using Answer = RemoteTeacher::Answer;
  using Form = RemoteTeacher::Form;

  /// `side`: this rank in the mesh that the teacher is cut over, of the same ranks in the same order. Both outlive this.
  RelaidTeacher(const Rank& student, Rank& side, Form form);

  /// The model that is read from here on, with the layers that on_stage says for sequences of this length. Throws where
  /// it is another than the form's.
  void take(LoadedTeacher teacher, std::int64_t sequence_length);
  /// The layers whose hidden states are answered from now on.
  void want_layers(std::vector<std::int64_t> layers) { layers_ = std::move(layers); }
  /// The head [V_local,Ct] and its bias, of ranks that have answers.
  void keep_head(core::Tensor head, core::Tensor bias) { head_ = std::move(head), head_bias_ = std::move(bias); }
  /// In how many passes it reads a step of so many sequences; `is_brought` as the LoadedTeacher has it.
  std::int64_t num_passes(std::int64_t num_sequences, std::int64_t micro_batches, bool is_brought) const;
  /// Both undefined on ranks that have no answers.
  const core::Tensor& head() const { return head_; }
  const core::Tensor& head_bias() const { return head_bias_; }
  /// Null before take().
  nn::Transformer* model() const { return teacher_.model.get(); }

  /// Collective over all ranks, without gradients: of each micro-batch what the teacher gives of the tokens that this
  /// rank takes of it; of ranks before the student's last stage nothing. `watch`: of what the passes' operations give,
  /// or null.
  std::vector<Answer> read(const StepText& text, std::int64_t micro_batches, core::FiniteWatch* watch = nullptr);

 private:
  /// How a step's text is read by both.
  struct Reading {
    std::int64_t num_sequences, sequence_length, micro_batches;
    std::int64_t passes;  // of the teacher
  };
  /// Rows of a pass that go to a rank's rows of a micro-batch.
  struct Run {
    std::size_t micro;
    CommonRows rows;
  };
  /// What this rank sends and receives of a pass over a stage of the teacher's, in the order of ranks.
  struct Exchange {
    std::vector<Run> out, in;
    std::vector<std::int64_t> sends, receives;  // rows, by rank
  };

  /// Where what is given comes to, a tensor a micro-batch; nothing on ranks that have no answers.
  struct Rooms {
    std::vector<core::Tensor> hidden;
    std::map<std::int64_t, std::vector<core::Tensor>> layers;
  };

  GivenRows run(const StepText& text, const Reading& reading, std::int64_t pass, core::FiniteWatch* watch) const;
  std::vector<Run> runs(int from, int to, int stage, const Reading& reading, std::int64_t pass) const;
  Exchange exchange_of(int stage, const Reading& reading, std::int64_t pass) const;
  std::vector<core::Tensor> rooms_of(core::DType dtype, const Reading& reading) const;
  /// Collective: what a pass has given goes to where it is wanted,
  void give(const GivenRows& given, const Reading& reading, std::int64_t pass, const Rooms& rooms) const;
  /// and of it these rows, of one stage's ranks.
  void give_rows(const Exchange& ways, const core::Tensor& rows, const std::vector<core::Tensor>& rooms,
                 core::DType dtype) const;

  Rank& side_;
  Form form_;
  std::vector<ReaderPlace> of_teacher_, of_student_;  // by rank
  LoadedTeacher teacher_;
  std::optional<Pipeline> layers_of_stages_;
  std::vector<std::int64_t> layers_;
  core::Tensor head_, head_bias_;
};

}  // namespace limbeck::launch
