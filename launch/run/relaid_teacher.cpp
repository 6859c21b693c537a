#include "launch/run/relaid_teacher.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "core/exchanges_of.h"

namespace limbeck::launch {

using core::DType;
using core::Tensor;

namespace {

std::vector<ReaderPlace> places_of(const Rank& rank) {
  std::vector<ReaderPlace> places;
  const int num_ranks = rank.world().size();
  for (int r = 0; r < num_ranks; ++r) places.push_back(place_of_reader(rank.mesh().layout(), num_ranks, r));
  return places;
}

std::int64_t rounded_up(std::int64_t count, std::int64_t parts) { return (count + parts - 1) / parts; }

}  // namespace

RelaidTeacher::RelaidTeacher(const Rank& student, Rank& side, Form form)
    : side_(side), form_(std::move(form)), of_teacher_(places_of(side)), of_student_(places_of(student)) {}

void RelaidTeacher::take(LoadedTeacher teacher, std::int64_t sequence_length) {
  core::check(teacher.fingerprint == form_.fingerprint,
              "the teacher has the fingerprint {} under parallel.teacher_layout, {} when the run began: expected "
              "teacher.source to stay as it is meanwhile",
              teacher.fingerprint, form_.fingerprint);
  teacher_ = std::move(teacher);
  layers_of_stages_ = pipeline_without_head(teacher_.model->config(), sequence_length, side_.mesh().pp().size());
}

/// So many that no rank reads more tokens in one than one of the student's in its own, and that stages seldom wait for
/// each other, which is less than what layers that each pass brings would take; as far as there are sequences.
std::int64_t RelaidTeacher::num_passes(std::int64_t num_sequences, std::int64_t micro_batches, bool is_brought) const {
  const auto readers = [](const ReaderPlace& place) { return place.num_data * place.context.size; };
  const ReaderPlace &teacher = of_teacher_.front(), &student = of_student_.front();
  const std::int64_t num_stages = side_.mesh().pp().size(),
                     of_stages = num_stages == 1 || is_brought ? 1 : 2 * num_stages,
                     wanted = std::max(rounded_up(micro_batches * readers(student), readers(teacher)), of_stages);
  return std::clamp<std::int64_t>(rounded_up(num_sequences, teacher.num_data), 1, wanted);
}

GivenRows RelaidTeacher::run(const StepText& text, const Reading& reading, std::int64_t pass,
                             core::FiniteWatch* watch) const {
  const core::ExchangesOf scope(core::of_teacher(core::Subject("pass", pass, "forward")));
  const std::int64_t stages = side_.mesh().pp().size(), stage = side_.mesh().pp().rank();
  if (watch != nullptr)  // before all that the student's passes have, pass by pass through the stages
    watch->begin(fmt::format("the teacher's pass {}", pass), (pass - reading.passes) * stages + stage);
  const ReaderPlace& here = of_teacher_[static_cast<std::size_t>(side_.world().rank())];
  const auto [first, count] = read_by(here, reading.num_sequences, pass, reading.passes).sequences;
  const nn::Batch batch =
      make_batch(side_.memory(), text.fetch(first, count), 0, count, first, /*num_ahead=*/0, side_.context_place());
  return rows_given(teacher_, batch, layers_, watch);
}

/// Of those along the teacher's tp that have a row, the one gives it that stands where the reader does: itself, where
/// it has it.
std::vector<RelaidTeacher::Run> RelaidTeacher::runs(int from, int to, int stage, const Reading& reading,
                                                    std::int64_t pass) const {
  const ReaderPlace &teacher = of_teacher_[static_cast<std::size_t>(from)],
                    &student = of_student_[static_cast<std::size_t>(to)];
  const bool speaks = teacher.stage == stage && student.stage == of_student_.back().stage &&
                      teacher.tensor == of_teacher_[static_cast<std::size_t>(to)].tensor;
  std::vector<Run> all;
  if (!speaks) return all;
  const ReadTokens given = read_by(teacher, reading.num_sequences, pass, reading.passes);
  for (std::int64_t micro = 0; micro < reading.micro_batches; ++micro) {
    const ReadTokens wanted = read_by(student, reading.num_sequences, micro, reading.micro_batches);
    for (const CommonRows& rows : common_rows(given, wanted, reading.sequence_length))
      all.push_back({static_cast<std::size_t>(micro), rows});
  }
  return all;
}

RelaidTeacher::Exchange RelaidTeacher::exchange_of(int stage, const Reading& reading, std::int64_t pass) const {
  Exchange all;
  const auto add = [](const std::vector<Run>& more, std::vector<Run>& to, std::vector<std::int64_t>& counts) {
    std::int64_t& count = counts.emplace_back(0);
    for (const Run& run : more) count += run.rows.count;
    to.insert(to.end(), more.begin(), more.end());
  };
  const int here = side_.world().rank();
  for (int r = 0; r < side_.world().size(); ++r) {
    add(runs(here, r, stage, reading, pass), all.out, all.sends);
    add(runs(r, here, stage, reading, pass), all.in, all.receives);
  }
  return all;
}

/// For each micro-batch, where this rank has answers.
std::vector<Tensor> RelaidTeacher::rooms_of(DType dtype, const Reading& reading) const {
  std::vector<Tensor> rooms;
  const ReaderPlace& here = of_student_[static_cast<std::size_t>(side_.world().rank())];
  if (here.stage != of_student_.back().stage) return rooms;
  for (std::int64_t micro = 0; micro < reading.micro_batches; ++micro) {
    const ReadTokens mine = read_by(here, reading.num_sequences, micro, reading.micro_batches);
    rooms.push_back(Tensor::empty(side_.memory(), dtype, {mine.num_rows(reading.sequence_length), form_.width}));
  }
  return rooms;
}

void RelaidTeacher::give_rows(const Exchange& ways, const Tensor& rows, const std::vector<Tensor>& rooms,
                              DType dtype) const {
  const auto room_for = [&](const std::vector<std::int64_t>& counts) {
    const std::int64_t all = std::accumulate(counts.begin(), counts.end(), std::int64_t{0});
    return Tensor::empty(side_.memory(), dtype, {all, form_.width});
  };
  const Tensor sent = room_for(ways.sends), received = room_for(ways.receives);
  std::int64_t at = 0;
  for (const Run& run : ways.out) {
    sent.rows(at, run.rows.count).copy_from(rows.rows(run.rows.in_first, run.rows.count));
    at += run.rows.count;
  }
  side_.world().all_to_all_v(sent, ways.sends, received, ways.receives);
  at = 0;
  for (const Run& run : ways.in) {
    rooms[run.micro].rows(run.rows.in_second, run.rows.count).copy_from(received.rows(at, run.rows.count));
    at += run.rows.count;
  }
}

void RelaidTeacher::give(const GivenRows& given, const Reading& reading, std::int64_t pass, const Rooms& rooms) const {
  const core::ExchangesOf scope(core::of_teacher(core::Subject("pass", pass, "hidden states")));
  const int last = of_teacher_.back().stage;
  for (int stage = 0; stage <= last; ++stage) {
    const bool gives = stage == last || std::ranges::any_of(rooms.layers, [&](const auto& of_layer) {
                         return layers_of_stages_->stage_of(of_layer.first) == stage;
                       });
    if (!gives) continue;
    const Exchange ways = exchange_of(stage, reading, pass);
    for (const auto& [layer, of_layer] : rooms.layers) {
      if (layers_of_stages_->stage_of(layer) != stage) continue;
      const auto rows = given.layers.find(layer);
      give_rows(ways, rows == given.layers.end() ? Tensor() : rows->second, of_layer, form_.stream);
    }
    if (stage == last) give_rows(ways, given.hidden, rooms.hidden, form_.hidden);
  }
}

std::vector<RelaidTeacher::Answer> RelaidTeacher::read(const StepText& text, std::int64_t micro_batches,
                                                       core::FiniteWatch* watch) {
  core::check(teacher_.model != nullptr, "teacher: it is asked before it was read for parallel.teacher_layout");
  const Reading reading{.num_sequences = text.num_sequences,
                        .sequence_length = text.num_sequences == 0 ? 0 : text.num_tokens / text.num_sequences,
                        .micro_batches = micro_batches,
                        .passes = num_passes(text.num_sequences, micro_batches, teacher_.is_brought)};
  Rooms rooms{.hidden = rooms_of(form_.hidden, reading), .layers = {}};
  for (const std::int64_t layer : layers_) rooms.layers[layer] = rooms_of(form_.stream, reading);
  // All passes run before any rows are given, so that no stage waits for another in between, and all ranks begin
  // streams and exchanges in one order, as NCCL has to have them.
  std::vector<GivenRows> given;
  for (std::int64_t pass = 0; pass < reading.passes; ++pass) given.push_back(run(text, reading, pass, watch));
  for (std::int64_t pass = 0; pass < reading.passes; ++pass)
    give(std::exchange(given[static_cast<std::size_t>(pass)], {}), reading, pass, rooms);
  std::vector<Answer> answers;
  for (std::size_t micro = 0; micro < rooms.hidden.size(); ++micro) {
    Answer& answer = answers.emplace_back(
        Answer{.hidden = rooms.hidden[micro], .head = head_, .head_bias = head_bias_, .layers = {}});
    for (const auto& [layer, of_layer] : rooms.layers) answer.layers.emplace(layer, of_layer[micro]);
  }
  return answers;
}

}  // namespace limbeck::launch
