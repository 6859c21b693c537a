#include "core/recompute.h"

#include <algorithm>

namespace limbeck::core {
namespace {

/// The same values with slots of their own, for those that had one.
std::vector<Var> detached(const std::vector<Var>& vars) {
  std::vector<Var> result;
  for (const Var& v : vars) result.push_back(v.slot && !v.slot->parameter ? leaf(v.value) : v);
  return result;
}

}  // namespace

std::vector<Var> recompute(Tape& tape, const std::vector<Var>& inputs, const Block& block) {
  if (tape.mode() != Tape::Mode::Record) return block(tape, inputs);

  // A block inside a block that runs again: its uses are counted, and its first pass is a replay too.
  Tape counting = tape.is_replay() ? Tape(tape, Tape::Mode::Count) : Tape(Tape::Mode::Count);
  counting.set_watch(tape.watch());
  std::vector<Var> outputs = block(counting, detached(inputs));
  if (std::ranges::none_of(outputs, [](const Var& v) { return v.slot != nullptr; })) return outputs;
  std::vector<SlotPtr> input_slots;
  for (const Var& v : inputs) input_slots.push_back(v.slot && !v.slot->parameter ? v.slot : nullptr);
  for (Var& v : outputs)
    if (v.slot) v.slot = std::make_shared<Slot>();
  tape.add_uses(counting.uses());

  std::vector<Saved> saved;
  for (const Var& v : inputs) saved.emplace_back(v.value);
  std::vector<Var> ends;  // the outputs' slots; their values are not read again
  for (const Var& v : outputs) ends.push_back({v.slot ? outline(v.value) : Tensor(), v.slot});
  tape.push({"recompute", input_slots, [&tape, inputs, ends, block, saved] {
               for (const Saved& s : saved) s.get();
               Tape inner(tape);
               const std::vector<Var> again = detached(inputs);
               const std::vector<Var> values = block(inner, again);
               for (std::size_t i = 0; i < ends.size(); ++i)
                 if (ends[i].slot) accumulate(values[i].slot, gradient(ends[i].slot, ends[i].value));
               inner.run();
               for (std::size_t i = 0; i < again.size(); ++i)
                 if (again[i].slot && !again[i].slot->parameter && again[i].slot->has_grad)
                   accumulate(inputs[i].slot, again[i].slot->grad);
             }});
  return outputs;
}

}  // namespace limbeck::core
