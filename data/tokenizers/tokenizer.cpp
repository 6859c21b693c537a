#include "data/tokenizers/tokenizer.h"

#include <algorithm>

#include "data/tokenizers/tokenizer_bpe.h"
#include "data/tokenizers/unicode.h"

namespace limbeck::data {

std::shared_ptr<const Tokenizer> byte_tokenizer() {
  BpeDescription description;
  for (int byte = 0; byte < 256; ++byte) {
    const char character = static_cast<char>(byte);
    description.tokens.push_back(alphabet_of_bytes({&character, 1}));
  }
  description.tokens.emplace_back("<|endoftext|>");
  description.added = {{.id = 256, .special = true}};
  description.eos = 256;
  return std::make_shared<BpeTokenizer>(std::move(description), "byte tokenizer");
}

std::vector<std::int32_t> Tokenizer::stop_ids() const {
  std::vector<std::int32_t> ids = {eos_id()};
  const auto add = [&](std::int32_t id) {
    if (std::find(ids.begin(), ids.end(), id) == ids.end()) ids.push_back(id);
  };
  for (const auto id : other_ends()) add(id);
  add(end_of_text_id());
  return ids;
}

std::string StreamDecoder::feed(std::int32_t id) {
  pending_ += tokenizer_.decode_inside(id);
  const std::size_t whole = pending_.size() - unfinished_utf8(pending_);
  std::string text = repair_utf8(std::string_view(pending_).substr(0, whole)).utf8;
  pending_.erase(0, whole);
  return text;
}

std::string StreamDecoder::finish() {
  std::string text = repair_utf8(pending_).utf8;
  pending_.clear();
  return text;
}

}  // namespace limbeck::data
