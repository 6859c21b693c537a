#include "launch/run/teacher_ranks.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <utility>

#include "core/error.h"
#include "core/exchanges_of.h"
#include "launch/run/stop_flag.h"

namespace limbeck::launch {

using core::CommHandle;
using core::DType;
using core::Tensor;

namespace {

constexpr std::int64_t most_layers = 1 << 16;
constexpr std::int64_t most_tokens = std::int64_t{1} << 31;
/// Of a question: its kind, sequences, their length, layers.
constexpr std::int64_t head_size = 4;

core::MemoryPtr host() { return core::Memory::cpu(1); }

int parts(int size) { return std::max(size, 1); }

}  // namespace

TeacherRanks::TeacherRanks(std::shared_ptr<parallel::WorldComm> world, int num_teachers,
                           const parallel::Layout& student, const parallel::Layout& teacher)
    : world_(std::move(world)),
      num_students_(world_->size() - num_teachers),
      num_teachers_(num_teachers),
      student_tp_(parts(student.tp)),
      teacher_tp_(parts(teacher.tp)),
      student_group_(student_tp_ * parts(student.cp)),
      teacher_group_(teacher_tp_ * parts(teacher.cp)),
      first_asker_(num_students_ - num_students_ / parts(student.pp)),  // stages lie one behind the other
      first_answerer_(num_teachers_ - num_teachers_ / parts(teacher.pp)) {
  if (num_teachers < 1 || num_students_ < 1)
    core::fail_usage("parallel.teacher_ranks is {}, expected 1 or more, and fewer than the {} ranks that are running",
                     num_teachers, world_->size());
  parallel::check_world(student, num_students_);
  if (const std::string fault = parallel::world_fault(teacher, num_teachers_); !fault.empty())
    core::fail_usage("parallel.teacher_layout: {}", fault);
  side_ = world_->split(is_teacher() ? 1 : 0, world_->rank(), is_teacher() ? "teacher" : "student");
}

std::vector<int> TeacherRanks::replica() const {
  const int number = (world_->rank() - first_asker_) / student_group_ % num_replicas();
  std::vector<int> ranks;
  for (int stage = num_students_; stage < world_->size(); stage += ranks_of_stage())
    for (int i = 0; i < teacher_group_; ++i) ranks.push_back(stage + number * teacher_group_ + i);
  return ranks;
}

std::vector<int> TeacherRanks::answerers() const {
  const std::vector<int> ranks = replica();
  std::vector<int> those;
  for (int part = 0; part < teacher_group_; part += teacher_tp_)
    those.push_back(*(ranks.end() - teacher_group_ + part + world_->rank() % student_group_ % teacher_tp_));
  return those;
}

nn::ContextPlace TeacherRanks::place_of(int rank) const {
  const bool teaches = rank >= num_students_;
  const int in_group = teaches ? (rank - num_students_) % teacher_group_ : rank % student_group_,
            tp = teaches ? teacher_tp_ : student_tp_, group = teaches ? teacher_group_ : student_group_;
  return {in_group / tp, group / tp};
}

std::vector<int> TeacherRanks::answered_ranks(int asker) const {
  std::vector<int> ranks;
  if (side_->rank() < first_answerer_) return ranks;
  for (int i = side_->rank() % teacher_tp_; i < student_group_; i += teacher_tp_)
    ranks.push_back(rank_of_asker(asker) + i);
  return ranks;
}

void TeacherRanks::dismiss() {
  if (!asks()) return;
  std::vector<CommHandle> sent;
  for (const int to : replica()) send_question(*world_, to, {.kind = TeacherQuestion::Kind::End}, sent);
  for (CommHandle& handle : sent) handle.wait();
}

TeacherQuestion question_of(const data::TokenBatch& text, std::vector<std::int64_t> layers) {
  TeacherQuestion question{
      .num_sequences = text.num_sequences, .sequence_length = text.sequence_length, .layers = std::move(layers)};
  for (const auto* column : {&text.tokens, &text.positions, &text.documents})
    question.columns.insert(question.columns.end(), column->begin(), column->end());
  return question;
}

void send_question(core::Comm& world, int to, const TeacherQuestion& question, std::vector<CommHandle>& sent) {
  const core::ExchangesOf scope("question to the teacher");
  const std::array<std::int64_t, head_size> head = {static_cast<std::int64_t>(question.kind), question.num_sequences,
                                                    question.sequence_length, std::ssize(question.layers)};
  sent.push_back(world.send_async(Tensor::from<std::int64_t>(host(), {head_size}, head), to));
  if (!question.layers.empty())
    sent.push_back(
        world.send_async(Tensor::from<std::int64_t>(host(), {std::ssize(question.layers)}, question.layers), to));
  if (!question.columns.empty())
    sent.push_back(
        world.send_async(Tensor::from<std::int32_t>(host(), {std::ssize(question.columns)}, question.columns), to));
}

TeacherQuestion receive_question(core::Comm& world, int from) {
  const core::ExchangesOf scope("question to the teacher");
  Tensor head = Tensor::empty(host(), DType::I64, {head_size});
  world.receive_async(head, from).wait_patiently();
  const auto* said = head.host<std::int64_t>();
  TeacherQuestion question{
      .kind = TeacherQuestion::Kind{said[0]}, .num_sequences = said[1], .sequence_length = said[2]};
  const std::int64_t num_layers = said[3];
  core::check(said[0] >= 0 && question.kind <= TeacherQuestion::Kind::End && question.num_sequences >= 0 &&
                  question.sequence_length >= 0 && num_layers >= 0 && num_layers <= most_layers &&
                  (question.sequence_length == 0 || question.num_sequences <= most_tokens / question.sequence_length),
              "rank {} asks the teacher for {} sequences of {} tokens and {} layers", from, question.num_sequences,
              question.sequence_length, num_layers);
  if (num_layers > 0) {
    Tensor layers = Tensor::empty(host(), DType::I64, {num_layers});
    world.receive(layers, from);
    question.layers = core::host_values<std::int64_t>(layers);
  }
  if (const std::int64_t n = 3 * question.num_sequences * question.sequence_length; n > 0) {
    Tensor columns = Tensor::empty(host(), DType::I32, {n});
    world.receive(columns, from);
    question.columns = core::host_values<std::int32_t>(columns);
  }
  return question;
}

RemoteTeacher::RemoteTeacher(const TeacherRanks& ranks, core::MemoryPtr memory, Form form)
    : ranks_(ranks),
      memory_(std::move(memory)),
      arrival_(form.arrival ? form.arrival : memory_->host()),
      form_(std::move(form)) {
  check_fingerprint();
}

RemoteTeacher::~RemoteTeacher() {
  if (std::uncaught_exceptions() > exceptions_) return;  // nobody waits for the end of what failed
  try {
    forget_asked();
  } catch (const std::exception&) {
    // The world is stopped, which whoever waits next hears.
  }
}

void RemoteTeacher::Asked::wait() {
  for (CommHandle& handle : under_way) handle.wait();
}

/// Where one rank answers, its rows are all there are, in order.
Tensor RemoteTeacher::Asked::whole(const Parts& parts) const {
  if (parts.size() == 1) return parts.front();
  std::int64_t n = 0;
  for (const Tensor& part : parts) n += part.shape()[0];
  const Tensor rows = Tensor::empty(parts.front().memory(), parts.front().dtype(), {n, parts.front().shape()[1]});
  for (std::size_t i = 0; i < parts.size(); ++i) {
    std::int64_t at = 0;
    for (const CommonRows& run : ways[i]) {
      rows.rows(run.in_second, run.count).copy_from(parts[i].rows(at, run.count));
      at += run.count;
    }
  }
  return rows;
}

void RemoteTeacher::want_layers(std::vector<std::int64_t> layers) {
  forget_asked();
  layers_ = std::move(layers);
}

void RemoteTeacher::forget_asked() {
  for (Asked& asked : asked_) asked.wait();
  asked_.clear();
}

void RemoteTeacher::check_fingerprint() const {
  const core::ExchangesOf scope("fingerprint of the teacher");
  std::vector<CommHandle> sending = send({.kind = TeacherQuestion::Kind::Name});
  for (const int from : ranks_.answerers()) {
    Tensor name = Tensor::zeros(host(), DType::U8, {teacher_fingerprint_length});
    ranks_.world().receive_async(name, from).wait_patiently();
    const auto* bytes = name.host<std::uint8_t>();
    const std::string theirs(bytes, bytes + teacher_fingerprint_length);
    core::check(
        theirs == form_.fingerprint,
        "the teacher of rank {} has the fingerprint {}, that of the student's ranks {}: expected the same files "
        "under teacher.source on all machines, and a run directory in which nothing is saved meanwhile",
        from, theirs, form_.fingerprint);
  }
  for (CommHandle& handle : sending) handle.wait();
}

void RemoteTeacher::ask(const std::vector<data::TokenBatch>& batches) {
  const auto since = std::chrono::steady_clock::now();
  for (const data::TokenBatch& batch : batches) ask_one(batch);
  wait_seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - since).count();
}

std::vector<CommHandle> RemoteTeacher::send(const TeacherQuestion& question) const {
  std::vector<CommHandle> sending;
  if (ranks_.asks())
    for (const int to : ranks_.replica()) send_question(ranks_.world(), to, question, sending);
  return sending;
}

void RemoteTeacher::ask_one(const data::TokenBatch& batch) {
  Asked& asked =
      asked_.emplace_back(Asked{.tokens = batch.tokens, .ways = {}, .under_way = send(question_of(batch, layers_))});
  const core::ExchangesOf scope("answer of the teacher");
  const std::vector<int> answerers = ranks_.answerers();
  const ReadTokens mine = ranks_.read_by(ranks_.world().rank(), batch.num_sequences);
  asked.wants_stop = Tensor::zeros(host(), DType::I64, {std::ssize(answerers)});
  for (std::size_t i = 0; i < answerers.size(); ++i) {
    const std::vector<CommonRows>& ways = asked.ways.emplace_back(
        common_rows(ranks_.read_by(answerers[i], batch.num_sequences), mine, batch.sequence_length));
    std::int64_t n = 0;
    for (const CommonRows& run : ways) n += run.count;
    const auto expect = [&](const Tensor& rows) {
      if (rows.numel() > 0) asked.under_way.push_back(ranks_.world().receive_async(rows, answerers[i]));
      return rows;
    };
    expect(asked.wants_stop.rows(static_cast<std::int64_t>(i), 1));
    for (const std::int64_t layer : layers_)
      asked.layers[layer].push_back(expect(Tensor::empty(arrival_, form_.stream, {n, form_.width})));
    asked.hidden.push_back(expect(Tensor::empty(arrival_, form_.hidden, {n, form_.width})));
  }
}

RemoteTeacher::Answer RemoteTeacher::take(const data::TokenBatch& batch) {
  const auto since = std::chrono::steady_clock::now();
  if (asked_.empty() || asked_.front().tokens != batch.tokens) {
    forget_asked();  // other text is read than was said before
    ask_one(batch);
  }
  Asked asked = std::move(asked_.front());
  asked_.pop_front();
  asked.wait();
  const std::vector<std::int64_t> stops = core::host_values<std::int64_t>(asked.wants_stop);
  if (std::ranges::any_of(stops, [](std::int64_t wants) { return wants != 0; })) request_stop();
  wait_seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - since).count();
  Answer answer{.hidden = asked.whole(asked.hidden).in(memory_), .head = head_, .head_bias = head_bias_};
  for (const auto& [layer, parts] : asked.layers) answer.layers.emplace(layer, asked.whole(parts).in(memory_));
  return answer;
}

}  // namespace limbeck::launch
