#include "launch/run/teacher_service.h"

#include <algorithm>
#include <map>
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
  Service(Rank& rank, const TeacherRanks& ranks, const RunningTeacher& teacher)
      : rank_(rank), ranks_(ranks), teacher_(teacher) {
    const std::string& fingerprint = teacher.fingerprint;
    const Tensor bytes = Tensor::from<std::uint8_t>(rank.host_memory(), {std::ssize(fingerprint)},
                                                    {reinterpret_cast<const std::uint8_t*>(fingerprint.data()),
                                                     fingerprint.size()});
    for (int asker = ranks.replica_number(); asker < ranks.num_askers(); asker += ranks.num_replicas())
      for (const int to : ranks.answered_ranks(asker)) sent_.push_back(ranks.world().send_async(bytes, to));
  }

  /// A question of each asker; false: they dismiss us. Where experts are cut over the replicas, those that have fewer
  /// askers run along.
  bool answer_all() {
    for (int first = 0; first < ranks_.num_askers(); first += ranks_.num_replicas()) {
      const int asker = first + ranks_.replica_number();
      TeacherQuestion question;
      if (asker < ranks_.num_askers()) question = receive_question(ranks_.world(), ranks_.rank_of_asker(asker));
      if (question.is_last) is_over_ = true;
      if (is_over_) continue;
      const std::vector<Tensor> answer = run(question);
      if (question.columns.empty()) continue;
      finish();
      for (const int to : ranks_.answered_ranks(asker))
        for (const Tensor& rows : answer) sent_.push_back(ranks_.world().send_async(rows, to));
    }
    return !is_over_;
  }

  /// Waits until all answers have come.
  void finish() {
    for (CommHandle& handle : sent_) handle.wait();
    sent_.clear();
  }

 private:
  /// Hidden states behind the layers that are asked for, and behind the last norm; on the host.
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
    std::vector<Tensor> answer;
    for (const std::int64_t layer : question.layers) answer.push_back(layers.at(layer).in(rank_.host_memory()));
    answer.push_back(hidden.in(rank_.host_memory()));
    return answer;
  }

  Rank& rank_;
  const TeacherRanks& ranks_;
  const RunningTeacher& teacher_;
  std::vector<CommHandle> sent_;  // that may be under way
  bool is_over_ = false;
};

}  // namespace

void answer_with(Rank& rank, const TeacherRanks& ranks, const RunningTeacher& teacher) {
  Service service(rank, ranks, teacher);
  while (service.answer_all()) {
  }
  service.finish();
}

void serve_teacher(Rank& rank, const RunConfig& config, const TeacherRanks& ranks, const Log& log) {
  catch_stop_signals();  // which the student's ranks answer, and end this
  const RunConfig found = with_paths_found(config);
  const ModelSource source = open_model_together(rank, found.teacher->source, log);
  const RunningTeacher teacher = load_teacher(rank, config, source, source.config.vocabulary, {}, log);
  answer_with(rank, ranks, teacher);
}

}  // namespace limbeck::launch
