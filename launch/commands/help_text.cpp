#include "launch/commands/help_text.h"

#include <fmt/ranges.h>

#include <CLI/CLI.hpp>

#include <set>
#include <sstream>
#include <vector>

namespace limbeck::launch {

namespace {

constexpr std::size_t columns = 100;
constexpr std::size_t left_columns = 28;

/// `left`, and `text` beside it, broken between words.
std::string entry(const std::string& left, const std::string& text) {
  std::string line = "  " + left;
  std::string result;
  const auto next_line = [&] {
    result += line + "\n";
    line.clear();
  };
  if (line.size() + 1 > left_columns) next_line();
  line.resize(left_columns, ' ');
  std::istringstream words(text);
  bool is_first = true;
  for (std::string word; words >> word; is_first = false) {
    if (!is_first && line.size() + 1 + word.size() > columns) {
      next_line();
      line.assign(left_columns, ' ');
      is_first = true;
    }
    line += (is_first ? "" : " ") + word;
  }
  next_line();
  return result;
}

/// CLI11's "TEXT:{a,b}": what an option takes, and the choices that it has.
struct ValueType {
  std::string name;
  std::string choices;  // "a, b"
};

ValueType value_type(const CLI::Option& option) {
  ValueType type{.name = option.get_type_name(), .choices = {}};
  if (const std::size_t open = type.name.find(":{"); open != std::string::npos) {
    for (const char c : type.name.substr(open + 2, type.name.rfind('}') - open - 2))
      type.choices += c == ',' ? ", " : std::string(1, c);
    type.name.resize(open);
  }
  if (type.name == "INT" || type.name == "UINT") type.name = "N";
  if (type.name == "FLOAT") type.name = "X";
  return type;
}

bool is_list(const CLI::Option& option) { return option.get_expected_max() > 1; }

std::string names_of(const std::set<CLI::Option*>& options) {
  std::vector<std::string> names;
  for (const CLI::Option* option : options) names.push_back(option->get_name());
  return fmt::format("{}", fmt::join(names, ", "));
}

std::string option_entry(const CLI::Option& option) {
  const ValueType type = value_type(option);
  std::string left = option.get_name(option.get_positional(), !option.get_positional());
  if (!option.get_positional() && option.get_type_size() != 0 && !type.name.empty()) left += " " + type.name;
  if (is_list(option)) left += " ...";
  std::vector<std::string> notes;
  if (!type.choices.empty()) notes.push_back(type.choices);
  if (!option.get_default_str().empty()) notes.push_back("default " + option.get_default_str());
  if (!option.get_positional() && option.get_required()) notes.emplace_back("required");
  if (!option.get_needs().empty()) notes.push_back("needs " + names_of(option.get_needs()));
  if (!option.get_excludes().empty()) notes.push_back("not with " + names_of(option.get_excludes()));
  std::string text = option.get_description();
  if (!notes.empty()) text += fmt::format(" ({})", fmt::join(notes, "; "));
  return entry(left, text);
}

std::string section(const std::string& title, const std::vector<const CLI::Option*>& options) {
  std::string text = options.empty() ? "" : "\n" + title + ":\n";
  for (const CLI::Option* option : options) text += option_entry(*option);
  return text;
}

std::string usage(const CLI::App& app, const std::string& name) {
  std::string text = "Usage: " + name + " [OPTIONS]";
  for (const CLI::Option* option : app.get_options([](const CLI::Option* o) { return o->get_positional(); })) {
    const std::string word = option->get_name(true) + (is_list(*option) ? "..." : "");
    text += " " + (option->get_required() ? word : "[" + word + "]");
  }
  return text + (app.get_require_subcommand_min() > 0 ? " COMMAND\n" : "\n");
}

}  // namespace

std::string help_text(const CLI::App& app, const std::string& name) {
  std::string text = app.get_description() + "\n" + usage(app, name);
  text += section("Positionals", app.get_options([](const CLI::Option* o) { return o->get_positional(); }));
  for (const std::string& group : app.get_groups())
    text += section(
        group, app.get_options([&](const CLI::Option* o) { return o->nonpositional() && o->get_group() == group; }));
  const auto commands = app.get_subcommands([](const CLI::App*) { return true; });
  if (!commands.empty()) text += "\nCommands:\n";
  for (const CLI::App* command : commands) text += entry(command->get_name(), command->get_description());
  return text + "\n" + app.get_footer();
}

}  // namespace limbeck::launch
