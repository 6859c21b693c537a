// What this thread's exchanges with other ranks are of, for the message of one that has no end (docs/parallelism.md,
// "Who has not come"). Whoever begins some says it for a while; it is kept with each, and written out where one is
// told.
//
//     const ExchangesOf pass("micro-batch", 2, "forward");
//     {
//       const ExchangesOf gradients("gradients of", bucket.name);
//       group.all_reduce_async(bucket.flat, Reduce::Sum);     // of "gradients of layers.1.mlp.up.weight and 3 more"
//     }
//     stages.receive(Kind::Stream, x, 0);                     // of "micro-batch 2, forward" again
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace limbeck::core {

/// Texts live as long as the program; a name that does not is shared by all that keep it.
struct Subject {
  Subject() = default;
  explicit Subject(const char* what, std::int64_t number = -1, const char* part = nullptr);
  Subject(const char* what, std::shared_ptr<const std::string> name);

  const char* what = nullptr;  // null: nobody said
  std::shared_ptr<const std::string> name;
  std::int64_t number = -1;    // -1: it has none
  const char* part = nullptr;  // of that; null: all of it
  bool is_teachers = false;    // of a teacher's passes, as is what is said within
};

/// "gradients of layers.1.mlp.up.weight and 3 more", "micro-batch 2, forward", "teacher's pass 2, forward"; "" where
/// nobody said.
std::string describe(const Subject& of);

/// The same, of which the part is another.
Subject part_of(Subject of, const char* part);
/// The same of a teacher's.
Subject of_teacher(Subject of);
/// "layers.1.mlp.up.weight and 3 more", of four.
std::shared_ptr<const std::string> name_of_many(const std::string& first, std::size_t count);

/// While it lives, the exchanges that its thread begins are of this.
class ExchangesOf {
 public:
  explicit ExchangesOf(Subject of);
  explicit ExchangesOf(const char* what, std::int64_t number = -1, const char* part = nullptr);
  ExchangesOf(const char* what, std::shared_ptr<const std::string> name);
  ~ExchangesOf();
  ExchangesOf(const ExchangesOf&) = delete;
  ExchangesOf& operator=(const ExchangesOf&) = delete;

  static const Subject& now();

 private:
  Subject of_;
  const Subject* before_;
};

}  // namespace limbeck::core
