// What people write in a config beside protobuf's own text format: names of enumerations in any case (cosine), and
// whole numbers with an exponent or a fraction of zeros (1e6, 2.50e1).
//
//     const Respelled r = respelled("train { steps: 1e3 } schedule { kind: cosine }", *config::Config::descriptor());
//     r.text                                   // "train { steps: 1000 } schedule { kind: COSINE }"
//     r.column_before(0, 20)                   // of a place in r.text, that in the text as it was given
#pragma once

#include <google/protobuf/descriptor.h>
#include <google/protobuf/io/tokenizer.h>

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace limbeck::launch {

/// The digits of a whole number that is written with a point or an exponent; nothing where it is no number without a
/// sign, or not whole: "1.5e1" is 15, "1.5e0" nothing.
std::optional<std::string> whole_number(std::string_view text);

struct Respelled {
  struct Longer {
    int line;    // from 0, as all here
    int column;  // of the text that was given
    int by;
  };
  std::string text;
  std::vector<Longer> longer;

  int column_before(int line, int column) const;
};

/// For those who only ask whether protobuf understands a text: without one it writes to standard error.
class NoErrors : public google::protobuf::io::ErrorCollector {
 public:
  void AddError(int, google::protobuf::io::ColumnNumber, const std::string&) override {}
};

/// `text` is in text format, fields of `type`. What cannot be understood stays as it is: the parser will say why.
Respelled respelled(const std::string& text, const google::protobuf::Descriptor& type);

}  // namespace limbeck::launch
