#include "launch/commands/token_ids.h"

#include <sstream>
#include <string>

#include "core/error.h"
#include "data/files/atomic_file.h"
#include "data/files/file_kind.h"
#include "data/text/token_file.h"
#include "data/text/token_meta.h"

namespace limbeck::launch {

namespace fs = std::filesystem;
using core::check;

namespace {

constexpr std::uintmax_t most_id_bytes = std::uintmax_t{1} << 30U;

std::vector<std::int32_t> ids_in_text(const fs::path& path, std::int64_t vocabulary) {
  check(fs::is_regular_file(path), "{}: is no file, expected a token file or a text of integers", path.string());
  std::istringstream in(data::read_text_file(path, most_id_bytes));
  data::refuse_other_kind(path.string(), in.view(), "a token file or a text of integers");
  std::vector<std::int32_t> ids;
  std::string word;
  while (in >> word) {
    std::size_t used = 0;
    long long value = -1;
    try {
      value = std::stoll(word, &used);
    } catch (const std::exception&) {
      used = 0;
    }
    check(used == word.size() && value >= 0 && value < vocabulary,
          "{}: \"{}\" at place {}, expected a token id below {}", path.string(), word, ids.size(), vocabulary);
    ids.push_back(static_cast<std::int32_t>(value));
  }
  return ids;
}

}  // namespace

fs::path token_prefix(fs::path path) {
  if (path.extension() == ".bin" || path.extension() == ".idx") path.replace_extension();
  return path;
}

std::vector<data::Document> read_token_documents(const fs::path& path, const ModelSource& model,
                                                 const data::Tokenizer* tokenizer) {
  const fs::path prefix = token_prefix(path);
  if (fs::exists(prefix.string() + ".idx")) {
    const data::TokenFile file(prefix.string());
    const auto meta = data::read_token_meta(file);
    check(!meta || model.tokenizer == nullptr || data::is_made_by(*meta, *model.tokenizer),
          "{}: was made by another tokenizer, of {} tokens, than the model's", prefix.string(),
          meta ? meta->vocabulary : 0);
    return data::documents_of(file, tokenizer);
  }
  data::Document document{.name = path.string(), .ids = ids_in_text(path, model.config.vocabulary)};
  check(!document.ids.empty(), "{}: holds no tokens", path.string());
  if (tokenizer != nullptr) document.bytes = data::bytes_between_ends(document, *tokenizer);
  return {document};
}

std::vector<std::int32_t> read_ids(const fs::path& path, const ModelSource& model) {
  std::vector<std::int32_t> ids;
  for (const data::Document& document : read_token_documents(path, model, nullptr))
    ids.insert(ids.end(), document.ids.begin(), document.ids.end());
  for (std::size_t i = 0; i < ids.size(); ++i)
    check(ids[i] >= 0 && ids[i] < model.config.vocabulary, "{}: token {} at place {}, expected an id below {}",
          path.string(), ids[i], i, model.config.vocabulary);
  return ids;
}

}  // namespace limbeck::launch
