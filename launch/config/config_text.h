// Text format and --set into the protobuf message, with a place for every field that was given. Internal to the config.
//
//     ParsedConfig parsed = parse_text(text, "run.textproto");
//     merge(parsed, parse_text(more, "more.textproto"));
//     apply_sets(parsed, {"train.steps=100"});
//     parsed.place_of("train.steps");       // "--set train.steps=100"; for others "run.textproto:7:3"
#pragma once

#include <google/protobuf/io/tokenizer.h>

#include <map>
#include <string>
#include <vector>

#include "launch/config/config.pb.h"

namespace limbeck::launch {

struct ParsedConfig {
  config::Config message;
  std::string name;  // of the file, or of several
  std::map<std::string, std::string>
      places;  // by field path, of fields that were given; entry i of a list is "list[i]"

  /// Where the field, or else the nearest section around it, was given.
  std::string place_of(const std::string& path) const;
};

/// Throws a UsageError "name:line:column: ..." at the first mistake.
ParsedConfig parse_text(const std::string& text, const std::string& name);

/// The first mistake that protobuf finds in a text. Lines and columns count from 0.
class FirstError : public google::protobuf::io::ErrorCollector {
 public:
  void AddError(int at_line, google::protobuf::io::ColumnNumber at_column, const std::string& what) override {
    if (!message.empty()) return;
    line = at_line;
    column = at_column;
    message = what;
  }
  int line = 0;
  int column = 0;
  std::string message;
};

/// What it is, without its place: "there is no field hiden, did you mean hidden?", or protobuf's words.
std::string in_our_words(const FirstError& error);

/// Lays `more` over `base` by protobuf's rules (MergeFrom): its scalars replace, its sections are merged field by
/// field, its lists are appended; of alternatives (train.steps, tokens, epochs) its own is left. base's name stays.
void merge(ParsedConfig& base, const ParsedConfig& more);

/// Applies "a.b=v" in order. Of a list, "list=v" replaces it at first and appends after that, "list+=v" always appends,
/// "list[i]=v" replaces entry i and "list[i].field=v" sets a field of it; v is one entry or [v, w]. Nothing for v
/// clears a list or takes a section away. "a { b: v }" and "a={ b: v }" are laid over the config, as a file would be.
/// Throws a UsageError "--set a.b=v: ..." that names the nearest fields where the path is unknown.
void apply_sets(ParsedConfig& parsed, const std::vector<std::string>& sets);

/// Every field of the schema below `type`, in paths that begin with `prefix`.
void collect_paths(const google::protobuf::Descriptor& type, const std::string& prefix,
                   std::vector<std::string>& paths);

/// What a field takes, for messages.
std::string expected_of(const google::protobuf::FieldDescriptor& field);

/// "did you mean a or b?" from the nearest of `names`.
std::string suggestion(const std::string& given, std::vector<std::string> names);

}  // namespace limbeck::launch
