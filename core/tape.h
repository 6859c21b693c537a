// Reverse-mode differentiation without a graph: a flat list of backward steps. An op computes its value at once and
// pushes one step; backward() pops from the end, and popping frees what the step saved. Reverse push order is a
// topological order.
//
//     Var scale(Tape& tape, const Var& x, double factor) {
//       Var y = tape.output(scaled(x.value, factor), {&x});
//       if (y.slot) tape.push({"scale", {x.slot}, [=, in = x.slot, out = y.slot, like = outline(y.value)] {
//         accumulate(in, scaled(gradient(out, like), factor));
//       }});
//       return y;
//     }
//
// docs/adding_an_op.md walks through a whole op. A tape belongs to one rank and one micro-batch.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <initializer_list>
#include <map>
#include <span>
#include <string_view>
#include <vector>

#include "core/parameter.h"
#include "core/tensor.h"

namespace limbeck::core {

/// A value and the slot of its gradient; without a slot nothing flows back into it.
struct Var {
  Tensor value;
  SlotPtr slot;

  const Shape& shape() const { return value.shape(); }
};

/// The parameter as a value that gradients flow into (unless it is frozen).
inline Var as_var(const Parameter& parameter) { return {parameter.value, parameter.slot}; }
/// None of null: a bias that a model does not have.
inline std::optional<Var> as_optional_var(const Parameter* parameter) {
  return parameter != nullptr ? std::optional(as_var(*parameter)) : std::nullopt;
}
/// A value to differentiate with respect to: it has a slot of its own.
inline Var leaf(Tensor value) { return {std::move(value), std::make_shared<Slot>()}; }
/// A value that no gradient flows into.
inline Var constant(Tensor value) { return {std::move(value), nullptr}; }

/// Adds g to the slot (nothing happens without one). The slot may keep g itself; a gradient that others still refer to
/// is never written, so a step may hand the same tensor, even its incoming gradient, to several slots.
void accumulate(const SlotPtr& slot, const Tensor& g);

/// A slot's gradient as the target of a kernel that computes `target = beta * target + ...`.
struct GradientTarget {
  Tensor tensor;
  double beta = 0;  // 0: the contents are undefined and must be overwritten
};
/// `like` gives shape, dtype and memory of the gradient.
GradientTarget open_gradient(const SlotPtr& slot, const Tensor& like);

/// The gradient that arrived at an output; zeros where none did (so that no rank skips a step). `like` as above.
Tensor gradient(const SlotPtr& slot, const Tensor& like);

class TapeWatch;

class Tape {
 public:
  enum class Mode : std::uint8_t {
    Record,
    Count,  // the first pass of a recomputed block: parameter uses are counted, steps are dropped
    Off,    // inference: no slots, no steps
  };

  /// When weight parts run.
  enum class WeightParts : std::uint8_t {
    AtOnce,   // with their steps
    InWaits,  // queued, and run by fill_wait() too
    Queued,   // and run by run_weight_parts() and run_next_weight_part() alone
  };

  struct Step {
    std::string_view op;
    std::vector<SlotPtr> input_slots;        // written by input_part
    std::function<void()> input_part;        // gradients of the inputs, needed by the steps before
    std::vector<SlotPtr> weight_slots = {};  // written by weight_part
    std::function<void()> weight_part = {};  // gradients that nothing waits for: they may be made later
  };

  explicit Tape(Mode mode = Mode::Record) : mode_(mode) {}
  /// The inner tape of a recomputed block: uses were counted by `parent` already, which also queues delayed weight
  /// parts.
  explicit Tape(Tape& parent, Mode mode = Mode::Record) : mode_(mode), parent_(&parent) {}
  Tape(const Tape&) = delete;
  Tape& operator=(const Tape&) = delete;

  Mode mode() const { return mode_; }
  bool records() const { return mode_ != Mode::Off; }
  /// True where a recomputed block runs its forward again: counters and logs were fed by the first pass.
  bool is_replay() const { return parent_ != nullptr; }

  /// An op's result; it gets a slot if a gradient can flow to one of the inputs.
  Var output(Tensor value, std::initializer_list<const Var*> inputs) const;
  void push(Step step);

  /// Seeds d(loss) = 1 (loss has one element) and runs every step.
  void backward(const Var& loss);
  /// Runs every step; the seeds are in the slots already.
  void run();

  /// Those that are queued of a recomputed block are its parent's.
  void set_weight_parts(WeightParts when) { weight_parts_ = when; }
  void run_weight_parts() {
    while (run_next_weight_part()) {
    }
  }
  /// The one that was queued first; false: there is none.
  bool run_next_weight_part();
  /// Called by a step that has started an exchange with other ranks and is about to wait for it.
  void fill_wait() {
    if (root().weight_parts_ == WeightParts::InWaits) run_weight_parts();
  }

  /// Called when this tape has no more uses of a parameter: its gradient from this micro-batch is complete.
  void on_parameter_done(std::function<void(Parameter&)> f) { parameter_done_ = std::move(f); }
  /// Uses that are still to come, by parameter.
  const std::map<Parameter*, std::int64_t>& uses() const { return uses_; }
  /// Registers the uses that a recomputed block will make.
  void add_uses(const std::map<Parameter*, std::int64_t>& uses);
  std::size_t num_steps() const { return steps_.size(); }

  /// Null: nobody. It outlives the tape, and sees what inner tapes do too.
  void set_watch(TapeWatch* watch) { watch_ = watch; }
  TapeWatch* watch() const { return watch_ == nullptr && parent_ != nullptr ? parent_->watch() : watch_; }

 private:
  void count(const std::vector<SlotPtr>& slots);
  void finish(const std::vector<SlotPtr>& slots);
  void run_weight_part(Step& step);
  Tape& root() { return parent_ ? parent_->root() : *this; }

  Mode mode_;
  Tape* parent_ = nullptr;
  TapeWatch* watch_ = nullptr;
  WeightParts weight_parts_ = WeightParts::AtOnce;
  std::vector<Step> steps_;
  std::deque<Step> delayed_;
  std::map<Parameter*, std::int64_t> uses_;
  std::function<void(Parameter&)> parameter_done_;
};

/// Whoever looks at a tape while it works.
class TapeWatch {
 public:
  virtual ~TapeWatch() = default;
  /// What an operation gives. Where a gradient flows to it, and the tape is on, `pushed` says next which one.
  virtual void made(const Tensor& value) = 0;
  virtual void pushed(const Tape::Step& step) = 0;
  /// A part of a step, its input or weight part, has run, and has written these slots.
  virtual void ran(std::string_view op, const std::vector<SlotPtr>& slots) = 0;
};

/// Counts, over the micro-batches of an optimizer step, when each parameter's gradient is final: that event starts its
/// bucket's reduction while backward goes on.
class GradientLedger {
 public:
  GradientLedger(std::int64_t num_tapes, std::function<void(Parameter&)> on_final)
      : num_tapes_(num_tapes), on_final_(std::move(on_final)) {}
  void watch(Tape& tape) {
    tape.on_parameter_done([this](Parameter& p) {
      if (++done_[&p] == num_tapes_) on_final_(p);
    });
  }

 private:
  std::int64_t num_tapes_;
  std::function<void(Parameter&)> on_final_;
  std::map<Parameter*, std::int64_t> done_;
};

}  // namespace limbeck::core
