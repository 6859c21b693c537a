#include "data/files/json_text.h"

#include <unordered_set>
#include <utility>
#include <vector>

namespace limbeck::data {

namespace {

/// (The library's own parser with a callback goes over an object's or a list's members each time that one ends.)
class Structure : public nlohmann::json::json_sax_t {
 public:
  explicit Structure(const std::string& where) : where_(where) {}

  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool start_object(std::size_t) override { return start(); }
  bool end_object() override { return end(); }
  bool start_array(std::size_t) override { return start(); }
  bool end_array() override { return end(); }
  bool key(string_t& name) override {
    const auto [found, is_new] = keys_.back().insert(std::move(name));
    core::check(is_new, "{}: names \"{}\" twice", where_, found->substr(0, 80));
    return true;
  }
  bool parse_error(std::size_t, const std::string&, const nlohmann::json::exception&) override { return false; }

 private:
  bool start() {
    keys_.emplace_back();
    core::check(keys_.size() <= 64, "{}: is nested more than 64 deep", where_);
    return true;
  }
  bool end() {
    keys_.pop_back();
    return true;
  }

  const std::string& where_;
  std::vector<std::unordered_set<std::string>> keys_;  // of the objects and lists around
};

}  // namespace

void check_structure(std::string_view json, const std::string& where) {
  Structure structure(where);
  if (!nlohmann::json::sax_parse(json, &structure)) return;  // for the parser to say
  core::check(!has_zero_byte(json), "{}: has a zero byte at {}, expected JSON", where, json.find('\0'));
}

std::string json_reason(const std::exception& error) {
  constexpr std::size_t most_read = 60;  // of what the parser had read when it stopped: the end, where it stopped
  constexpr std::size_t most = 300;
  constexpr std::string_view quote = "; last read: '";
  std::string reason = error.what();
  if (const std::size_t end = reason.find("] "); reason.starts_with("[json.exception.") && end != std::string::npos)
    reason.erase(0, end + 2);
  const std::size_t begin = reason.find(quote);
  if (begin != std::string::npos && reason.size() - begin > quote.size() + most_read)
    reason.replace(begin + quote.size(), reason.size() - begin - quote.size() - most_read, "...");
  if (reason.size() > most) reason = reason.substr(0, most) + "...";
  return reason;
}

}  // namespace limbeck::data
