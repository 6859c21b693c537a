#include "launch/report/html.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "data/tokenizers/unicode.h"

namespace limbeck::launch {

std::string escape(std::string_view text) {
  std::string out;
  for (const char32_t c : data::code_points(data::repair_utf8(text).utf8)) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default: {
        const bool is_control = (c < 0x20 && c != '\t' && c != '\n') || (c >= 0x7f && c < 0xa0);
        out += data::to_utf8(is_control || c == 0xfffe || c == 0xffff ? U'\xfffd' : c);
      }
    }
  }
  return out;
}

std::string script_string(std::string_view text) {
  std::string out;
  for (const char c :
       nlohmann::json(text).dump(-1, ' ', /*ensure_ascii=*/true, nlohmann::json::error_handler_t::replace))
    if (c == '<' || c == '>' || c == '&' || c == 0x7f)
      out += fmt::format("\\u{:04x}", static_cast<int>(c));
    else
      out += c;
  return out;
}

}  // namespace limbeck::launch
