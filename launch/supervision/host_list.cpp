#include "launch/supervision/host_list.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <fstream>
#include <istream>
#include <sstream>
#include <utility>

#include "data/files/atomic_file.h"

namespace limbeck::launch {

namespace {

constexpr std::array host_options = {"--host", "-host", "-H"};
constexpr std::array file_options = {"--hostfile",   "-hostfile",          "--machinefile",
                                     "-machinefile", "--default-hostfile", "-default-hostfile"};

std::optional<int> number(std::string_view text) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || value < 0) return std::nullopt;
  return value;
}

bool is_address(std::string_view name) {
  return name.find(':') != std::string_view::npos || name.find_first_not_of("0123456789.") == std::string_view::npos;
}

}  // namespace

bool is_same_host(std::string_view a, std::string_view b) {
  if (a == b) return true;
  return !is_address(a) && !is_address(b) && a.substr(0, a.find('.')) == b.substr(0, b.find('.'));
}

/// "node1 slots=4", "user@node1:4". Of "^node1" and "+n1", which are none that a host has, it is not said how many
/// slots there are.
HostList::Entry HostList::entry_of(std::string text, bool is_line) {
  Entry entry{.text = std::move(text), .name = "", .slots = std::nullopt};
  std::string word = entry.text;
  if (is_line) {
    std::istringstream words(entry.text.substr(0, entry.text.find('#')));
    word.clear();
    words >> word;
    for (std::string more; words >> more;)
      if (more.starts_with("slots=")) entry.slots = number(std::string_view(more).substr(6));
  } else if (const std::size_t colon = word.find(':'); colon != std::string::npos) {
    entry.slots = number(std::string_view(word).substr(colon + 1));
    word.resize(colon);
  } else {
    entry.slots = 1;
  }
  entry.name = word.substr(word.find('@') + 1);
  if (entry.name.starts_with('^') || entry.name.starts_with('+')) entry.slots.reset();
  return entry;
}

HostList::HostList(std::vector<std::string> options) : options_(std::move(options)) {
  for (std::size_t word = 1; word < options_.size(); ++word) {
    const std::string& option = options_[word - 1];
    const bool is_file = std::ranges::find(file_options, option) != file_options.end();
    if (!is_file && std::ranges::find(host_options, option) == host_options.end()) continue;
    List list{.word = word, .is_file = is_file};
    const auto read = [&](std::istream&& in, char between) {
      for (std::string text; std::getline(in, text, between);)
        list.entries.push_back(entry_of(std::move(text), is_file));
    };
    if (is_file)
      read(std::ifstream(options_[word]), '\n');
    else
      read(std::istringstream(options_[word]), ',');
    lists_.push_back(std::move(list));
  }
}

std::optional<int> HostList::slots() const {
  // Of a hostfile --host takes some.
  const bool are_chosen = !std::ranges::all_of(lists_, &List::is_file);
  std::optional<int> sum;
  for (const List& list : lists_)
    for (const Entry& entry : list.entries) {
      if (entry.name.empty() || (list.is_file && are_chosen)) continue;
      if (!entry.slots) return std::nullopt;
      sum = sum.value_or(0) + *entry.slots;
    }
  return sum;
}

bool HostList::leave_out(std::string_view host) {
  std::vector<List> rest = lists_;
  bool is_named = false;
  for (List& list : rest) {
    if (std::erase_if(list.entries, [&](const Entry& entry) { return is_same_host(entry.name, host); }) == 0) continue;
    if (std::ranges::all_of(list.entries, [](const Entry& entry) { return entry.name.empty(); })) return false;
    list.is_shorter = is_named = true;
  }
  if (is_named) lists_ = std::move(rest);
  return is_named;
}

std::vector<std::string> HostList::options(const std::filesystem::path& folder) const {
  std::vector<std::string> words = options_;
  for (std::size_t i = 0; i < lists_.size(); ++i) {
    const List& list = lists_[i];
    if (!list.is_shorter) continue;
    std::string text;
    for (const Entry& entry : list.entries)
      text += (text.empty() || list.is_file ? "" : ",") + entry.text + (list.is_file ? "\n" : "");
    if (list.is_file) {
      const std::filesystem::path file = folder / fmt::format("hosts_{}", i);
      data::write_file_atomically(file, text);
      text = file.string();
    }
    words[list.word] = std::move(text);
  }
  return words;
}

}  // namespace limbeck::launch
