// JSON lines of any bytes as conversations, and as pairs of responses: what is no list of messages, or no pair, is
// refused in words. A known template's text, and the tokens of the model's part of it, are those of what is accepted.
#include <algorithm>
#include <cstdlib>
#include <string>

#include "core/error.h"
#include "data/text/chat_lines.h"
#include "data/text/documents.h"
#include "data/tokenizers/tokenizer_json.h"

namespace {

using namespace limbeck;

/// Of letters alone: a text's other characters are its unknown token.
const data::Tokenizer& letters() {
  static const auto tokenizer = data::tokenizer_from_hugging_face(
      {R"({"version":"1.0","added_tokens":[
           {"id":3,"content":"<|im_start|>","special":true,"single_word":false,"lstrip":false,"rstrip":false,"normalized":false},
           {"id":4,"content":"<|im_end|>","special":true,"single_word":false,"lstrip":false,"rstrip":false,"normalized":false}],
           "normalizer":null,"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true},
           "post_processor":null,"decoder":{"type":"ByteLevel"},
           "model":{"type":"BPE","unk_token":null,"vocab":{"a":0,"b":1,"Ċ":2},"merges":[]}})",
       R"({"eos_token":"<|im_end|>","chat_template":"{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"})"},
      "letters");
  return *tokenizer;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const data::LineBlock block{.text = std::string(reinterpret_cast<const char*>(data), size), .is_last = true};
  static const data::JsonField field("messages");
  static const data::ChatTemplate chat(letters());
  try {
    data::for_each_conversation(block, field, "chats.jsonl",
                                [](std::vector<data::ChatMessage>&& messages, std::int64_t) {
                                  const data::ChatText text = chat.render(messages);
                                  for (const auto& reply : text.replies)
                                    if (reply.end < reply.begin || reply.end > text.marked.text.size()) std::abort();
                                  const data::ChatTokens tokens = chat.encode(messages);
                                  if (tokens.ids.size() != tokens.is_target.size()) std::abort();
                                });
  } catch (const core::Error&) {
  }
  static const data::DocumentEncoder pairs(letters(), data::TextFormat::Pairs, "text", /*parse_special=*/false);
  std::int64_t documents = 0;
  try {
    pairs.encode_lines(block, "pairs.jsonl", [&](data::EncodedDocument&& document) {
      ++documents;
      if (document.ids.size() != document.is_target.size() || document.is_target.front() != 0) std::abort();
      if (std::ranges::count(document.is_target, 1) == 0) std::abort();
    });
  } catch (const core::Error&) {
  }
  if (documents % 2 != 0) std::abort();
  return 0;
}
