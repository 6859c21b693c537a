// The table of a SentencePiece normalizer: <bytes of the trie, 4 bytes><trie><replacements, each ended by a NUL>. The
// trie is a double array (darts-clone, https://github.com/s-yata/darts-clone): units of 32 bits; a unit's children lie
// at its base xor the next byte of the key, a value at the base itself. The library follows it without looking at its
// size.
#include <algorithm>
#include <cstring>
#include <vector>

#include "core/error.h"
#include "data/tokenizers/sentencepiece_model.h"

namespace limbeck::data {

using core::check;

namespace {

class Trie {
 public:
  Trie(std::string_view charsmap, const std::string& where) : where_(where) {
    std::uint32_t bytes = 0;
    check(charsmap.size() > sizeof bytes, "{}: the normalizer's table has {} bytes, expected more than 4", where,
          charsmap.size());
    std::memcpy(&bytes, charsmap.data(), sizeof bytes);
    charsmap.remove_prefix(sizeof bytes);
    // Blocks of 256 units: every child of a base inside the trie is inside it too.
    check(bytes > 0 && bytes % 1024 == 0 && bytes < charsmap.size(),
          "{}: the normalizer's trie has {} of {} bytes, expected a multiple of 1024 and replacements behind it", where,
          bytes, charsmap.size());
    units_.resize(bytes / sizeof(std::uint32_t));
    std::memcpy(units_.data(), charsmap.data(), bytes);
    replacements_ = charsmap.substr(bytes);
    check(replacements_.back() == '\0', "{}: the normalizer's replacements do not end with a NUL", where);
    nodes_.resize(units_.size());
  }

  bool check_all() {
    visit(0, 0);
    return crosses_space_;
  }

 private:
  struct Node {
    enum class State : std::uint8_t { New, Open, Done } state = State::New;
    int values = 0;  // most on a way down from here
  };
  static constexpr int most_values = 32;  // that the library has room for
  static constexpr int deepest = 256;     // bytes of a key

  /// Visits what lies below the unit `at`, whose key has `depth` bytes, and returns the most values on a way down.
  int visit(std::size_t at, int depth) {
    Node& node = nodes_[at];
    if (node.state == Node::State::Done) return node.values;
    check(node.state == Node::State::New && depth <= deepest,
          "{}: the normalizer's trie has a circle or a key of more than {} bytes", where_, deepest);
    node.state = Node::State::Open;
    const std::uint32_t unit = units_[at];
    const std::size_t base = at ^ (static_cast<std::size_t>(unit >> 10U) << ((unit & (1U << 9U)) >> 6U));
    check(base < units_.size(), "{}: the normalizer's trie leads from unit {} to {}, expected below {}", where_, at,
          base, units_.size());
    const bool has_value = ((unit >> 8U) & 1U) != 0;
    if (has_value) check_replacement(units_[base] & 0x7fffffffU);
    int below = 0;
    for (std::size_t byte = 1; byte < 256; ++byte) {
      if ((units_[base ^ byte] & 0x800000ffU) != byte) continue;
      below = std::max(below, visit(base ^ byte, depth + 1));
      // A space with something before or behind it in the same key.
      crosses_space_ |= byte == ' ' && (depth > 0 || has_child(base ^ byte));
    }
    check((units_[base] & 0x800000ffU) != 0, "{}: the normalizer's trie has a key with a NUL", where_);
    node.values = below + (has_value ? 1 : 0);
    check(node.values <= most_values, "{}: more than {} rules of the normalizer begin with one another", where_,
          most_values);
    node.state = Node::State::Done;
    return node.values;
  }

  bool has_child(std::size_t at) const { return nodes_[at].values > static_cast<int>((units_[at] >> 8U) & 1U); }

  void check_replacement(std::size_t start) const {
    constexpr std::size_t longest = 1024;
    check(start < replacements_.size() && replacements_.substr(start).find('\0') <= longest,
          "{}: a replacement of the normalizer at byte {} of {} is outside or longer than {}", where_, start,
          replacements_.size(), longest);
  }

  const std::string& where_;
  std::vector<std::uint32_t> units_;
  std::string_view replacements_;
  std::vector<Node> nodes_;
  bool crosses_space_ = false;
};

}  // namespace

bool check_charsmap(std::string_view charsmap, const std::string& where) { return Trie(charsmap, where).check_all(); }

}  // namespace limbeck::data
