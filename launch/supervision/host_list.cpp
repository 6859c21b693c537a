#include "launch/supervision/host_list.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <fstream>
#include <istream>
#include <iterator>
#include <set>
#include <sstream>
#include <utility>

#include "data/files/atomic_file.h"
#include "launch/console/read_number.h"

namespace limbeck::launch {

namespace {

constexpr std::array host_options = {"--host", "-host", "-H"};
constexpr std::array file_options = {"--hostfile",   "-hostfile",          "--machinefile",
                                     "-machinefile", "--default-hostfile", "-default-hostfile"};

/// "--rankfile f", "-rf f", "--map-by rankfile:file=f", "--mca rmaps_rank_file_path f"; not a value that is called so.
bool have_rankfile(const std::vector<std::string>& options) {
  for (std::size_t word = 0; word < options.size(); ++word) {
    std::string_view name = options[word];
    if (name == "orte_rankfile" || name == "rmaps_rank_file_path") return true;
    if (!name.starts_with('-')) continue;
    name.remove_prefix(std::min(name.find_first_not_of('-'), name.size()));
    std::string_view value = word + 1 < options.size() ? options[word + 1] : std::string_view();
    if (const std::size_t equals = name.find('='); equals != std::string_view::npos) {
      value = name.substr(equals + 1);
      name = name.substr(0, equals);
    }
    if (name == "rankfile" || name == "rf" || (name == "map-by" && value.starts_with("rankfile"))) return true;
  }
  return false;
}

}  // namespace

bool is_same_host(std::string_view a, std::string_view b) {
  if (a.size() > b.size()) std::swap(a, b);
  return b.starts_with(a) && (a.size() == b.size() || b[a.size()] == '.');
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
      if (more.starts_with("slots=")) entry.slots = number_from(std::string_view(more).substr(6), 0);
  } else if (const std::size_t colon = word.find(':'); colon != std::string::npos) {
    entry.slots = number_from(std::string_view(word).substr(colon + 1), 0);
    word.resize(colon);
  } else {
    entry.slots = 1;
  }
  entry.name = word.substr(word.find('@') + 1);
  if (entry.name.starts_with('^') || entry.name.starts_with('+')) entry.slots.reset();
  return entry;
}

HostList::HostList(std::vector<std::string> options) : options_(std::move(options)) {
  has_rankfile_ = have_rankfile(options_);
  for (std::size_t word = 0; word < options_.size(); ++word) {
    const std::string& option = options_[word];
    const std::size_t equals = option.find('=');
    const std::string name = option.substr(0, equals);
    const bool is_file = std::ranges::find(file_options, name) != file_options.end();
    if (!is_file && std::ranges::find(host_options, name) == host_options.end()) continue;
    if (equals == std::string::npos && ++word == options_.size()) break;
    List list{.word = word, .is_file = is_file};
    if (equals != std::string::npos) list.prefix = name + "=";
    const std::string value = options_[word].substr(list.prefix.size());
    const auto read = [&](std::istream&& in, char between) {
      for (std::string text; std::getline(in, text, between);)
        list.entries.push_back(entry_of(std::move(text), is_file));
    };
    if (is_file)
      read(std::ifstream(value), '\n');
    else
      read(std::istringstream(value), ',');
    lists_.push_back(std::move(list));
  }
}

bool HostList::List::is_empty() const {
  return std::ranges::all_of(entries, [](const Entry& entry) { return entry.name.empty(); });
}

std::vector<HostList::Entry> HostList::chosen() const {
  const bool are_files = std::ranges::all_of(lists_, &List::is_file);
  std::vector<Entry> all;
  for (const List& list : lists_)
    if (list.is_file == are_files)
      std::ranges::copy_if(list.entries, std::back_inserter(all),
                           [](const Entry& entry) { return !entry.name.empty(); });
  return all;
}

std::optional<int> HostList::slots() const {
  std::optional<int> sum;
  for (const Entry& entry : chosen()) {
    if (!entry.slots) return std::nullopt;
    sum = sum.value_or(0) + *entry.slots;
  }
  return sum;
}

int HostList::num_far(std::string_view here) const {
  std::set<std::string> names;
  for (const Entry& entry : chosen())
    if (entry.name != "localhost" && !is_same_host(entry.name, here)) names.insert(entry.name);
  return static_cast<int>(names.size());
}

bool HostList::has(std::string_view host) const {
  return std::ranges::any_of(chosen(), [&](const Entry& entry) { return is_same_host(entry.name, host); });
}

std::optional<int> HostList::room_without(std::string_view host, const std::map<std::string, int>& ranks_on,
                                          int ranks) const {
  HostList rest = *this;
  if (!rest.leave_out(host)) return std::nullopt;
  const std::optional<int> slots = rest.slots();
  int all = 0, others = 0;
  bool are_named = true;
  for (const auto& [name, of] : ranks_on) {
    all += of;
    if (rest.has(name)) others += of;
    are_named = are_named && has(name);
  }
  if (!are_named || all < ranks) return slots.value_or(ranks - 1);
  return std::max(slots.value_or(0), others);  // ranks may be more than slots (--oversubscribe)
}

bool HostList::leave_out(std::string_view host) {
  if (has_rankfile_) return false;
  std::vector<List> rest = lists_;
  bool is_named = false;
  for (List& list : rest)
    if (std::erase_if(list.entries, [&](const Entry& entry) { return is_same_host(entry.name, host); }) > 0)
      list.is_shorter = is_named = true;
  if (!is_named) return false;
  for (const bool is_file : {false, true}) {
    const auto is_of = [&](const List& list) { return list.is_file == is_file; };
    const auto names_nobody = [&](const List& list) { return !is_of(list) || list.is_empty(); };
    const auto was_shortened = [&](const List& list) { return is_of(list) && list.is_shorter; };
    if (std::ranges::any_of(rest, was_shortened) && std::ranges::all_of(rest, names_nobody)) return false;
  }
  lists_ = std::move(rest);
  return true;
}

bool HostList::writes_file() const {
  return std::ranges::any_of(lists_,
                             [](const List& list) { return list.is_file && list.is_shorter && !list.is_empty(); });
}

std::vector<std::string> HostList::options(const std::filesystem::path& folder) const {
  std::vector<std::string> words = options_;
  for (std::size_t i = lists_.size(); i-- > 0;) {  // from the last, for words behind it move
    const List& list = lists_[i];
    if (!list.is_shorter) continue;
    const auto word = words.begin() + static_cast<std::ptrdiff_t>(list.word);
    if (list.is_empty()) {
      words.erase(list.prefix.empty() ? word - 1 : word, word + 1);
      continue;
    }
    std::string text;
    for (const Entry& entry : list.entries)
      text += (text.empty() || list.is_file ? "" : ",") + entry.text + (list.is_file ? "\n" : "");
    if (list.is_file) {
      const std::filesystem::path file = folder / fmt::format("hosts_{}", i);
      data::write_file_atomically(file, text);
      text = file.string();
    }
    *word = list.prefix + text;
  }
  return words;
}

}  // namespace limbeck::launch
