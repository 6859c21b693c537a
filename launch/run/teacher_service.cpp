#include "launch/run/teacher_service.h"

#include <algorithm>
#include <cstring>
#include <span>
#include <utility>

#include "core/exchanges_of.h"
#include "launch/run/batch.h"
#include "launch/run/checkpointing.h"
#include "launch/run/run_config.h"
#include "launch/run/run_models.h"
#include "launch/run/stop_flag.h"

namespace limbeck::launch {
namespace {

using core::CommHandle;
using core::Tensor;

/// What stages tell the last one has the way by which a teacher beside the head would tell them.
constexpr auto of_stages = nn::PipelineComm::Kind::Taught;

/// Of rows of what one rank reads those that another takes.
Tensor taken(const Tensor& rows, const ReadTokens& here, const ReadTokens& there, std::int64_t sequence_length) {
  if (here.context.size == 1 && there.context.size == 1) return rows;
  const std::vector<CommonRows> runs = common_rows(here, there, sequence_length);
  std::int64_t n = 0, at = 0;
  for (const CommonRows& run : runs) n += run.count;
  const Tensor mine = Tensor::empty(rows.memory(), rows.dtype(), {n, rows.shape()[1]});
  for (const CommonRows& run : runs) {
    mine.rows(at, run.count).copy_from(rows.rows(run.in_first, run.count));
    at += run.count;
  }
  return mine;
}

}  // namespace

TeacherService::TeacherService(Rank& rank, const TeacherRanks& ranks, const LoadedTeacher& teacher,
                               std::int64_t sequence_length, core::MemoryPtr departure)
    : rank_(rank),
      ranks_(ranks),
      teacher_(teacher),
      layers_of_stages_(pipeline_without_head(teacher.model->config(), sequence_length, rank.mesh().pp().size())),
      departure_(departure ? std::move(departure) : rank.host_memory()),
      stages_(rank) {}

bool TeacherService::answer_all(const NextQuestion& next) {
  auto kind = TeacherQuestion::Kind::Text;
  for (int first = 0; first < ranks_.num_askers(); first += ranks_.num_replicas()) {
    const int asker = first + ranks_.replica_number();
    TeacherQuestion question;
    if (asker < ranks_.num_askers()) question = next ? next(asker) : hear_question(asker);
    if (first == 0) kind = kind_of_any(question.kind);
    if (kind == TeacherQuestion::Kind::End) continue;
    const std::vector<Tensor> answer = kind == TeacherQuestion::Kind::Name ? name() : run(question);
    if (asker >= ranks_.num_askers()) continue;
    finish();
    const core::ExchangesOf scope("answer of the teacher");
    for (const int to : ranks_.answered_ranks(asker))
      for (const Tensor& all : answer) {
        const bool is_rows = &all != &answer.front();
        const Tensor part =
            is_rows ? taken(all, read(question), ranks_.read_by(to, question.num_sequences), question.sequence_length)
                    : all;
        if (part.numel() > 0) sent_.push_back({ranks_.world().send_async(part, to), part});
      }
  }
  return kind != TeacherQuestion::Kind::End;
}

TeacherQuestion TeacherService::hear_question(int asker) const {
  return receive_question(ranks_.world(), ranks_.rank_of_asker(asker));
}

void TeacherService::finish() {
  for (Sent& sent : sent_) sent.handle.wait();
  sent_.clear();
}

ReadTokens TeacherService::read(const TeacherQuestion& question) const {
  return ranks_.read_by(ranks_.world().rank(), question.num_sequences);
}

TeacherQuestion::Kind TeacherService::kind_of_any(TeacherQuestion::Kind mine) const {
  const std::int64_t own[] = {static_cast<std::int64_t>(mine), stop_requested() ? 1 : 0};
  const Tensor greatest = Tensor::from<std::int64_t>(rank_.host_memory(), {2}, own);
  const core::ExchangesOf scope("question to the teacher");
  rank_.mesh().stage().all_reduce_async(greatest, core::Reduce::Max).wait_patiently();
  const std::vector<std::int64_t> of_any = core::host_values<std::int64_t>(greatest);
  if (of_any[1] != 0) request_stop();
  return TeacherQuestion::Kind{of_any[0]};
}

std::vector<Tensor> TeacherService::name() const {
  const auto bytes = std::as_bytes(std::span(teacher_.fingerprint));
  Tensor text = Tensor::empty(rank_.host_memory(), core::DType::U8, {std::ssize(bytes)});
  std::memcpy(text.mutable_raw(), bytes.data(), bytes.size());
  return {text};
}

std::vector<Tensor> TeacherService::run(const TeacherQuestion& question) {
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
  const nn::Batch batch =
      make_batch(rank_.memory(), text, 0, text.num_sequences, /*before=*/0, /*num_ahead=*/0, rank_.context_place());
  const core::ExchangesOf scope(core::of_teacher(core::Subject("pass", -1, "forward")));
  stages_.next();
  auto [hidden, layers] = rows_given(teacher_, batch, question.layers);
  if (!rank_.is_last_stage()) {
    tell(question, layers);
    return {};
  }
  hear(question, layers);
  const std::int64_t wants_stop = stop_requested() ? 1 : 0;
  std::vector<Tensor> answer = {Tensor::from<std::int64_t>(rank_.host_memory(), {1}, {&wants_stop, 1})};
  for (const std::int64_t layer : question.layers) answer.push_back(layers.at(layer).in(departure_));
  answer.push_back(hidden.in(departure_));
  return answer;
}

void TeacherService::tell(const TeacherQuestion& question, const std::map<std::int64_t, Tensor>& layers) const {
  const std::int64_t wants_stop = stop_requested() ? 1 : 0;
  send_on(Tensor::from<std::int64_t>(rank_.host_memory(), {1}, {&wants_stop, 1}));
  for (const std::int64_t layer : question.layers)
    if (layers_of_stages_.stage_of(layer) == rank_.pipeline().rank()) send_on(layers.at(layer).in(departure_));
}

void TeacherService::send_on(const Tensor& rows) const {
  const CommHandle sent = rank_.pipeline().send(of_stages, rows, rank_.pipeline().size() - 1);
}

void TeacherService::hear(const TeacherQuestion& question, std::map<std::int64_t, Tensor>& layers) const {
  const std::int64_t num_tokens = read(question).num_rows(question.sequence_length);
  for (std::int64_t stage = 0; stage + 1 < rank_.pipeline().size(); ++stage) {
    const Tensor wants_stop = Tensor::zeros(rank_.host_memory(), core::DType::I64, {1});
    rank_.pipeline().receive(of_stages, wants_stop, stage);
    if (core::host_values<std::int64_t>(wants_stop)[0] != 0) request_stop();
    for (const std::int64_t layer : question.layers) {
      if (layers_of_stages_.stage_of(layer) != stage) continue;
      const Tensor& rows = layers[layer] =
          Tensor::empty(departure_, teacher_.model->residual_dtype(), {num_tokens, teacher_.model->config().width});
      rank_.pipeline().receive(of_stages, rows, stage);
    }
  }
}

nn::ModelOptions on_stage(const Rank& rank, nn::ModelOptions options, const nn::ModelConfig& teacher,
                          std::int64_t sequence_length) {
  const int stages = rank.mesh().pp().size();
  if (stages == 1) return options;
  options.pipeline = rank.sharded(options.dtype).pipeline;
  const Pipeline pipeline = pipeline_without_head(teacher, sequence_length, stages);
  check_same_pipeline(rank.world(), pipeline, "the teacher's pipeline");
  return pipeline.part_of(std::move(options), rank.mesh().pp().rank());
}

void answer_with(Rank& rank, const TeacherRanks& ranks, const LoadedTeacher& teacher, std::int64_t sequence_length) {
  TeacherService service(rank, ranks, teacher, sequence_length);
  while (service.answer_all()) {
  }
  service.finish();
}

void serve_teacher(Rank& rank, const RunConfig& config, const TeacherRanks& ranks, const Log& log) {
  catch_stop_signals();  // of which the student's ranks hear with the next answer
  const RunConfig found = with_paths_found(config);
  const ModelSource source = open_model_together(rank, found.teacher->source, log);
  check_teacher_cut(config, source.config, ranks.world().size() - rank.world().size());  // as the student's ranks do
  const nn::VocabularyRows tensors(*source.reader, source.config.vocabulary);
  const std::int64_t questions = (ranks.num_askers() + ranks.num_replicas() - 1) / ranks.num_replicas();
  const LoadedTeacher teacher =
      load_teacher(rank, config, source, tensors,
                   on_stage(rank, teacher_options(rank, config.precision), source.config, config.data.sequence_length),
                   config.batch.micro_batches * questions, log);
  answer_with(rank, ranks, teacher, config.data.sequence_length);
}

}  // namespace limbeck::launch
