#include "data/files/json_text.h"

namespace limbeck::data {

std::string json_reason(const std::exception& error) {
  constexpr std::size_t most_read = 60;  // of what the parser had read when it stopped: the end, where it stopped
  constexpr std::size_t most = 300;
  constexpr std::string_view quote = "; last read: '";
  std::string reason = error.what();
  if (const std::size_t end = reason.find("] "); reason.starts_with("[json.exception.") && end != std::string::npos)
    reason.erase(0, end + 2);
  const std::size_t begin = reason.find(quote);
  if (begin != std::string::npos && reason.size() - begin > quote.size() + most_read)
    reason.replace(begin + quote.size(), reason.size() - begin - quote.size() - most_read, "...");
  if (reason.size() > most) reason = reason.substr(0, most) + "...";
  return reason;
}

}  // namespace limbeck::data
