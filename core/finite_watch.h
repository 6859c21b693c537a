// Finds the first operation that gives a value which is not finite, or a gradient. It reads all that operations give,
// so a step takes longer beside it; where it finds something, it goes on: what is never read may hold anything.
//
//     FiniteWatch watch;
//     watch.begin("the forward pass", 0);
//     tape.set_watch(&watch);
//     ...
//     if (const auto& found = watch.first()) fail("{}", found->what);
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "core/tape.h"

namespace limbeck::core {

class FiniteWatch : public TapeWatch {
 public:
  struct Finding {
    std::int64_t pass = 0;   // as begin() had it
    std::int64_t place = 0;  // operations and steps before it, of this rank
    std::string what = {};   // "what rms_norm gives in the forward pass, behind linear of layers.0.attention.q.weight"
  };

  /// What follows is of this pass. `order` says what comes of what: of two ranks' findings that of the lower one.
  void begin(std::string pass, std::int64_t order);
  /// Nothing is found, and nothing was seen.
  void forget() { *this = {}; }

  void made(const Tensor& value) override;
  void pushed(const Tape::Step& step) override;
  void ran(std::string_view op, const std::vector<SlotPtr>& slots) override;

  const std::optional<Finding>& first() const { return first_; }

 private:
  void find(const std::string& what, std::int64_t place);

  std::string pass_;
  std::int64_t order_ = 0;
  std::string last_;  // the last operation that reads a parameter, and which
  std::int64_t num_seen_ = 0;
  bool is_unnamed_ = false;  // what was found last is of an operation that has not said its name
  std::optional<Finding> first_;
};

}  // namespace limbeck::core
