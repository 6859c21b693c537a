// Text as a web page shows it.
//
//     page += fmt::format("<h1>{}</h1>", escape(name));     // whatever the name holds
#pragma once

#include <string>
#include <string_view>

namespace limbeck::launch {

/// For elements and quoted attributes of HTML and XML: the five marks of markup as entities; what is no UTF-8, and what
/// XML 1.0 has no place for (its section 2.2), becomes U+FFFD.
std::string escape(std::string_view text);

/// A text as a JSON string that may stand in a <script> of HTML and of XML: ASCII, and none of the marks of markup.
std::string script_string(std::string_view text);

}  // namespace limbeck::launch
