#include "launch/run/teacher_service.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <span>
#include <utility>
#include <vector>

#include "launch/run/batch.h"
#include "launch/run/checkpointing.h"
#include "launch/run/run_config.h"
#include "launch/run/stop_flag.h"

namespace limbeck::launch {
namespace {

using core::CommHandle;
using core::Tensor;

class Service {
 public:
  Service(Rank& rank, const TeacherRanks& ranks, const LoadedTeacher& teacher)
      : rank_(rank), ranks_(ranks), teacher_(teacher) {}

  /// A question of each asker, all of one kind; false: they dismiss us. Replicas that have fewer of them run along
  /// where experts are cut over all.
  bool answer_all() {
    auto kind = TeacherQuestion::Kind::Text;
    for (int first = 0; first < ranks_.num_askers(); first += ranks_.num_replicas()) {
      const int asker = first + ranks_.replica_number();
      TeacherQuestion question;
      if (asker < ranks_.num_askers()) question = receive_question(ranks_.world(), ranks_.rank_of_asker(asker));
      if (first == 0) kind = kind_of_any(question.kind);
      if (kind == TeacherQuestion::Kind::End) continue;
      const std::vector<Tensor> answer = kind == TeacherQuestion::Kind::Name ? name() : run(question);
      if (asker >= ranks_.num_askers()) continue;
      finish();
      for (const int to : ranks_.answered_ranks(asker))
        for (const Tensor& rows : answer)
          if (rows.numel() > 0) sent_.push_back(ranks_.world().send_async(rows, to));
    }
    return kind != TeacherQuestion::Kind::End;
  }

  /// Waits until all answers have come.
  void finish() {
    for (CommHandle& handle : sent_) handle.wait();
    sent_.clear();
  }

 private:
  /// Of the replicas' first questions; those without an asker hear it here.
  TeacherQuestion::Kind kind_of_any(TeacherQuestion::Kind mine) const {
    const auto number = static_cast<std::int64_t>(mine);
    const Tensor greatest = Tensor::from<std::int64_t>(rank_.host_memory(), {1}, {&number, 1});
    rank_.world().all_reduce_async(greatest, core::Reduce::Max).wait_patiently();
    return TeacherQuestion::Kind{core::host_values<std::int64_t>(greatest)[0]};
  }

  std::vector<Tensor> name() const {
    const auto bytes = std::as_bytes(std::span(teacher_.fingerprint));
    Tensor text = Tensor::empty(rank_.host_memory(), core::DType::U8, {std::ssize(bytes)});
    std::memcpy(text.mutable_raw(), bytes.data(), bytes.size());
    return {text};
  }

  /// Whether this rank was asked to stop, hidden states behind the layers that are asked for, and behind the last norm;
  /// on the host.
  std::vector<Tensor> run(const TeacherQuestion& question) const {
    const std::size_t n = question.columns.size() / 3;
    const auto column = [&](std::size_t c) {
      const auto begin = question.columns.begin() + static_cast<std::ptrdiff_t>(c * n);
      return std::vector<std::int32_t>(begin, begin + static_cast<std::ptrdiff_t>(n));
    };
    data::TokenBatch text;
    text.num_sequences = question.num_sequences;
    text.sequence_length = question.sequence_length;
    text.tokens = column(0);
    text.targets.assign(n, -1);
    text.positions = column(1);
    text.documents = column(2);
    const nn::Batch batch = make_batch(rank_.memory(), text, 0, text.num_sequences);
    core::Tape off(core::Tape::Mode::Off);
    nn::Pass pass = teacher_.model->pass(batch);
    std::map<std::int64_t, Tensor> layers;
    pass.gives = [&](std::int64_t layer, const core::Var& given) {
      if (std::ranges::count(question.layers, layer) > 0) layers.emplace(layer, given.value);
    };
    if (teacher_.streamed) teacher_.streamed->watch(pass);
    const Tensor hidden = teacher_.model->forward(off, pass).hidden.value;
    const std::int64_t wants_stop = stop_requested() ? 1 : 0;
    std::vector<Tensor> answer = {Tensor::from<std::int64_t>(rank_.host_memory(), {1}, {&wants_stop, 1})};
    for (const std::int64_t layer : question.layers) answer.push_back(layers.at(layer).in(rank_.host_memory()));
    answer.push_back(hidden.in(rank_.host_memory()));
    return answer;
  }

  Rank& rank_;
  const TeacherRanks& ranks_;
  const LoadedTeacher& teacher_;
  std::vector<CommHandle> sent_;  // that may be under way
};

}  // namespace

void answer_with(Rank& rank, const TeacherRanks& ranks, const LoadedTeacher& teacher) {
  Service service(rank, ranks, teacher);
  while (service.answer_all()) {
  }
  service.finish();
}

void serve_teacher(Rank& rank, const RunConfig& config, const TeacherRanks& ranks, const Log& log) {
  catch_stop_signals();  // of which the student's ranks hear with the next answer
  const RunConfig found = with_paths_found(config);
  const ModelSource source = open_model_together(rank, found.teacher->source, log);
  const nn::VocabularyRows tensors(*source.reader, source.config.vocabulary);
  const LoadedTeacher teacher = load_teacher(rank, config, source, tensors, log);
  answer_with(rank, ranks, teacher);
}

}  // namespace limbeck::launch
