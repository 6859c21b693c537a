#include "core/exchanges_of.h"

#include <fmt/format.h>

#include <utility>

namespace limbeck::core {
namespace {

const Subject nobody_said{};
thread_local const Subject* of_thread = &nobody_said;

}  // namespace

Subject::Subject(const char* what_, std::int64_t number_, const char* part_)
    : what(what_), number(number_), part(part_) {}
Subject::Subject(const char* what_, std::shared_ptr<const std::string> name_) : what(what_), name(std::move(name_)) {}

std::string describe(const Subject& of) {
  std::string text = of.is_teachers ? "teacher's" : "";
  if (of.what != nullptr) text += fmt::format("{}{}", text.empty() ? "" : " ", of.what);
  if (of.name) text += " " + *of.name;
  if (of.number >= 0) text += fmt::format(" {}", of.number);
  if (of.part != nullptr) text += fmt::format("{}{}", text.empty() ? "" : ", ", of.part);
  return text;
}

Subject part_of(Subject of, const char* part) {
  of.part = part;
  return of;
}

Subject of_teacher(Subject of) {
  of.is_teachers = true;
  return of;
}

std::shared_ptr<const std::string> name_of_many(const std::string& first, std::size_t count) {
  return std::make_shared<const std::string>(count > 1 ? fmt::format("{} and {} more", first, count - 1) : first);
}

ExchangesOf::ExchangesOf(Subject of) : of_(std::move(of)), before_(std::exchange(of_thread, &of_)) {
  of_.is_teachers = of_.is_teachers || before_->is_teachers;
}
ExchangesOf::ExchangesOf(const char* what, std::int64_t number, const char* part)
    : ExchangesOf(Subject(what, number, part)) {}
ExchangesOf::ExchangesOf(const char* what, std::shared_ptr<const std::string> name)
    : ExchangesOf(Subject(what, std::move(name))) {}
ExchangesOf::~ExchangesOf() { of_thread = before_; }

const Subject& ExchangesOf::now() { return *of_thread; }

}  // namespace limbeck::core
