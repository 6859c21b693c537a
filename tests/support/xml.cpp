#include "tests/support/xml.h"

#include <cctype>

#include "core/error.h"
#include "data/tokenizers/unicode.h"

namespace limbeck::testing {
namespace {

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {
    core::check(data::valid_utf8_prefix(text) == text.size(), "not UTF-8 at byte {}", data::valid_utf8_prefix(text));
    for (std::size_t i = 0; i < text.size(); ++i)
      core::check(static_cast<unsigned char>(text[i]) >= 0x20 || text[i] == '\n' || text[i] == '\t',
                  "a control character at byte {}", i);
  }

  XmlNode document() {
    skip_space();
    if (next_is("<!DOCTYPE")) at_ = text_.find('>', at_) + 1;
    skip_space();
    XmlNode root = element();
    skip_space();
    expect(at_ == text_.size(), "nothing after the root");
    return root;
  }

 private:
  void expect(bool condition, const char* what) const {
    core::check(condition, "byte {}: expected {}, not \"{}\"", at_, what,
                text_.substr(std::min(at_, text_.size()), 30));
  }
  bool next_is(std::string_view token) const { return text_.substr(std::min(at_, text_.size())).starts_with(token); }
  void take(std::string_view token) {
    expect(next_is(token), std::string(token).c_str());
    at_ += token.size();
  }
  void skip_space() {
    while (at_ < text_.size() && std::isspace(static_cast<unsigned char>(text_[at_])) != 0) ++at_;
  }
  std::string name() {
    const std::size_t begin = at_;
    const auto is_name = [](char c) {
      return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '-' || c == '_';
    };
    while (at_ < text_.size() && is_name(text_[at_])) ++at_;
    expect(at_ > begin, "a name");
    return std::string(text_.substr(begin, at_ - begin));
  }
  /// Up to `end`, which is not taken.
  std::string characters(char end) {
    std::string value;
    while (at_ < text_.size() && text_[at_] != end) {
      expect(text_[at_] != '<', "no bare <");
      if (text_[at_] != '&') {
        value += text_[at_++];
        continue;
      }
      const std::size_t semicolon = text_.find(';', at_);
      expect(semicolon != std::string_view::npos, "an entity");
      const std::string_view entity = text_.substr(at_ + 1, semicolon - at_ - 1);
      static const std::map<std::string_view, char> named{
          {"amp", '&'}, {"lt", '<'}, {"gt", '>'}, {"quot", '"'}, {"apos", '\''}};
      if (named.contains(entity)) {
        value += named.at(entity);
      } else {
        expect(entity.starts_with("#") && entity.size() > 1, "a known entity");
        value += data::to_utf8(static_cast<char32_t>(std::stoul(std::string(entity.substr(1)))));
      }
      at_ = semicolon + 1;
    }
    return value;
  }
  XmlNode element() {
    XmlNode node;
    take("<");
    node.name = name();
    for (skip_space(); !next_is(">") && !next_is("/>"); skip_space()) {
      const std::string attribute = name();
      take("=\"");
      expect(!node.attributes.contains(attribute), "each attribute once");
      node.attributes[attribute] = characters('"');
      take("\"");
      expect(next_is(" ") || next_is("\n") || next_is(">") || next_is("/>"), "a space between attributes");
    }
    if (next_is("/>")) {
      at_ += 2;
      return node;
    }
    take(">");
    while (!next_is("</")) {
      expect(at_ < text_.size(), "an end tag");
      if (next_is("<"))
        node.children.push_back(element());
      else
        node.children.push_back({{}, characters('<'), {}, {}});
    }
    take("</");
    expect(name() == node.name, "the end of the element that is open");
    skip_space();
    take(">");
    return node;
  }

  std::string_view text_;
  std::size_t at_ = 0;
};

}  // namespace

std::vector<const XmlNode*> XmlNode::all(std::string_view element) const {
  std::vector<const XmlNode*> found;
  for (const XmlNode& child : children) {
    if (child.name == element) found.push_back(&child);
    for (const XmlNode* inner : child.all(element)) found.push_back(inner);
  }
  return found;
}

std::string XmlNode::text() const {
  std::string all = value;
  for (const XmlNode& child : children) all += child.text();
  return all;
}

XmlNode parse_xml(std::string_view text) { return Parser(text).document(); }

}  // namespace limbeck::testing
