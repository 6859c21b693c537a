#include "launch/run/other_teachers.h"

#include <algorithm>
#include <utility>

namespace limbeck::launch {

TokenShares OtherTeachers::shares_of(const core::MemoryPtr& memory, const data::TokenBatch& samples, std::int64_t first,
                                     std::int64_t count) const {
  const std::int64_t begin = first * samples.sequence_length, tokens = count * samples.sequence_length;
  TokenShares of;
  for (std::size_t k = 0; k <= teachers.size(); ++k) {
    std::vector<double> values(static_cast<std::size_t>(tokens));
    for (const data::TokenBatch::Piece& piece : samples.pieces) {
      const std::int64_t from = std::clamp<std::int64_t>(piece.first - begin, 0, tokens);
      const std::int64_t to = std::clamp<std::int64_t>(piece.first + piece.count - begin, 0, tokens);
      std::fill(values.begin() + from, values.begin() + to, shares.at(piece.source).at(k));
    }
    of.values.push_back(core::Tensor::from<double>(memory, {tokens}, values));
    of.teaches.push_back(std::ranges::any_of(values, [](double share) { return share > 0; }));
  }
  if (std::ranges::count(of.teaches, true) == 0) of.teaches.front() = true;
  return of;
}

void OtherTeachers::give(const nn::Batch& batch, const TokenShares& of, std::vector<core::TeacherOutput>& given) const {
  for (std::size_t k = 1; k <= teachers.size(); ++k) {
    if (!runs(of, k)) continue;
    const One& teacher = teachers[k - 1];
    core::Tape off(core::Tape::Mode::Off);
    nn::Pass pass = teacher.model->pass(batch);
    if (teacher.streamed) teacher.streamed->watch(pass);
    core::Tensor hidden = teacher.model->forward(off, pass).hidden.value;
    if (of.teaches[k])
      given.push_back({std::move(hidden), teacher.model->head().value, teacher.model->head_bias().value, of.values[k]});
  }
}

}  // namespace limbeck::launch
