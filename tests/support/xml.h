// A strict reader of XML, as far as our own pages need it: whoever is well-formed here is so for every parser.
//
//     const XmlNode page = parse_xml(text);                    // throws where it is not well-formed
//     page.all("figcaption")[0]->text();
//     page.all("svg")[0]->attributes.at("viewBox");
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace limbeck::testing {

struct XmlNode {
  std::string name;   // empty: a piece of text
  std::string value;  // of a piece of text, entities resolved
  std::map<std::string, std::string> attributes;
  std::vector<XmlNode> children;

  /// The elements of this name below, in order.
  std::vector<const XmlNode*> all(std::string_view element) const;
  /// All text below.
  std::string text() const;
};

/// An optional <!DOCTYPE ...> and one element. Entities: the five of XML and numbers. Throws with the place otherwise.
XmlNode parse_xml(std::string_view text);

}  // namespace limbeck::testing
