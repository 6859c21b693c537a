#include "data/text/tokenize.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <optional>
#include <utility>

#include "core/counted.h"
#include "core/error.h"
#include "core/random.h"
#include "data/files/atomic_file.h"
#include "data/files/ordered_work.h"
#include "data/text/documents.h"
#include "data/text/json_lines.h"
#include "data/text/token_file_format.h"
#include "data/text/token_hash.h"
#include "data/text/token_meta.h"

namespace limbeck::data {

using core::check;
namespace fs = std::filesystem;

namespace {

constexpr std::int64_t bytes_at_once = std::int64_t{1} << 26U;
constexpr std::int64_t bytes_a_thread = std::int64_t{1} << 21U;
constexpr std::int64_t least_cost = std::int64_t{1} << 16U;  // so that not too many small files are at work

struct Input {
  InputFile file;
  bool is_json_lines = false;
};

/// A plain file, or some lines of a file.
struct Job {
  const Input* input = nullptr;
  LineBlock block = {};
  TokenizeState after = {};      // without counts
  std::int64_t input_bytes = 0;  // of all files, read for it and those before
};

struct Encoded {
  std::vector<std::int32_t> ids = {};
  std::vector<std::uint8_t> is_target = {};  // [ids], of conversations
  std::vector<std::int64_t> lengths = {};    // of the documents
  TokenizeCounts counts = {};
  TokenizeState after = {};
  std::int64_t input_bytes = 0;
};

EncodeCounts operator+(const EncodeCounts& a, const EncodeCounts& b) {
  return {a.dropped_bytes + b.dropped_bytes, a.repaired_sequences + b.repaired_sequences,
          a.special_names + b.special_names};
}

TokenizeCounts operator+(const TokenizeCounts& a, const TokenizeCounts& b) {
  return {a.documents + b.documents, a.bytes + b.bytes, a.tokens + b.tokens, a.encode + b.encode};
}

void check_unchanged(const InputFile& file) {
  check(describe_input(file.path) == file, "{}: was changed while it was read", file.path);
}

/// Gives the jobs of all inputs in order, from some state on.
class JobReader {
 public:
  JobReader(const std::vector<Input>& inputs, const TokenizeState& from, std::int64_t max_document_bytes)
      : inputs_(inputs), at_{from.files_done, from.place, {}}, max_document_bytes_(max_document_bytes) {
    for (std::int64_t i = 0; i < at_.files_done; ++i) bytes_before_ += inputs_[i].file.bytes;
  }

  std::optional<Job> next() {
    if (at_.files_done == static_cast<std::int64_t>(inputs_.size())) return std::nullopt;
    const Input& input = inputs_[at_.files_done];
    Job job{.input = &input, .input_bytes = bytes_before_ + input.file.bytes};
    bool is_last = true;
    if (input.is_json_lines) {
      if (!lines_) lines_ = std::make_unique<LineReader>(input.file.path, at_.place, max_document_bytes_);
      job.block = lines_->next();
      is_last = job.block.is_last;
      if (!is_last) job.input_bytes = bytes_before_ + std::min(job.block.packed_end, input.file.bytes);
      at_.place = job.block.end;
    }
    if (is_last) {
      lines_.reset();
      bytes_before_ += input.file.bytes;
      at_ = {at_.files_done + 1, {}, {}};
    }
    job.after = at_;
    return job;
  }
  std::int64_t bytes_before() const { return bytes_before_; }  // of the files done

 private:
  const std::vector<Input>& inputs_;
  TokenizeState at_;
  std::int64_t max_document_bytes_;
  std::int64_t bytes_before_ = 0;
  std::unique_ptr<LineReader> lines_;
};

Encoded encode(const Job& job, const DocumentEncoder& encoder, const TokenizeOptions& options) {
  Encoded result{.after = job.after, .input_bytes = job.input_bytes};
  const auto add = [&](EncodedDocument&& document) {
    result.ids.insert(result.ids.end(), document.ids.begin(), document.ids.end());
    result.is_target.insert(result.is_target.end(), document.is_target.begin(), document.is_target.end());
    result.lengths.push_back(static_cast<std::int64_t>(document.ids.size()));
    result.counts.bytes += document.bytes;
    result.counts.encode = result.counts.encode + document.counts;
  };
  const InputFile& file = job.input->file;
  if (job.input->is_json_lines)
    encoder.encode_lines(job.block, file.path, add);
  else
    encoder.encode_text(read_document(file.path, options.max_document_bytes), file.path, add);
  if (!job.input->is_json_lines || job.block.is_last) check_unchanged(file);
  result.counts.documents = static_cast<std::int64_t>(result.lengths.size());
  result.counts.tokens = static_cast<std::int64_t>(result.ids.size());
  return result;
}

/// What the result depends on besides the files.
std::string identity_of(const Tokenizer& tokenizer, const TokenizeOptions& options) {
  return fmt::format("{:016x} {} {} {}{}", core::hash_name(tokenizer.to_json()), tokenizer.end_of_text_id(),
                     static_cast<int>(options.format), field_of(options.format, options.field),
                     options.parse_special ? " special" : "");
}

/// Writes what was encoded, and now and then down to where everything is on the disk.
class Output {
 public:
  Output(TokenizeJournal& journal, TokenFileWriter& writer, const std::vector<InputFile>& files, TokenizeState state,
         std::chrono::milliseconds save_every)
      : journal_(journal), writer_(writer), files_(files), state_(std::move(state)), save_every_(save_every) {}

  void write(const Encoded& encoded) {
    std::span<const std::int32_t> ids = encoded.ids;
    std::span<const std::uint8_t> is_target = encoded.is_target;
    for (const auto length : encoded.lengths) {
      const auto here = static_cast<std::size_t>(length);
      writer_.add(ids.first(here), is_target.first(std::min(here, is_target.size())));
      ids = ids.subspan(here);
      is_target = is_target.subspan(std::min(here, is_target.size()));
    }
    state_ = {encoded.after.files_done, encoded.after.place, state_.counts + encoded.counts};
    if (Clock::now() - saved_ >= save_every_) save();
  }
  void save() {
    if (state_.counts.documents == 0) return;
    writer_.flush();
    journal_.append(state_, files_, writer_.digest());
    saved_ = Clock::now();
  }
  const TokenizeCounts& counts() const { return state_.counts; }

 private:
  using Clock = std::chrono::steady_clock;
  TokenizeJournal& journal_;
  TokenFileWriter& writer_;
  const std::vector<InputFile>& files_;
  TokenizeState state_;
  std::chrono::milliseconds save_every_;
  Clock::time_point saved_ = Clock::now();
};

}  // namespace

TokenizeCounts tokenize_files(const std::vector<std::string>& paths, const Tokenizer& tokenizer,
                              const std::string& prefix, const TokenizeOptions& options) {
  check(options.threads >= 1, "tokenize: {} threads, expected at least 1", options.threads);
  const DocumentEncoder encoder(tokenizer, options.format, options.field, options.parse_special);
  std::vector<Input> inputs;
  std::vector<InputFile> files;
  std::int64_t num_bytes = 0;
  for (const auto& path : list_text_files(paths)) {
    files.push_back(describe_input(path));
    inputs.push_back({files.back(), is_json_lines(path, options.format)});
    num_bytes += files.back().bytes;
  }
  const std::string name = token_file_prefix(prefix);
  if (const auto folder = fs::path(name).parent_path(); !folder.empty()) make_folder(folder);
  TokenizeJournal journal(name, options.notice);
  if (options.is_kept && !find_token_damage(name)) {  // another process has made it meanwhile
    journal.remove();
    return {};
  }
  const TokenizeState begin =
      journal.resume(identity_of(tokenizer, options), files, tokenizer.vocabulary_size(), encoder.has_targets());
  if (options.notice && begin.counts.documents > 0)
    options.notice(fmt::format("going on after {} of an interrupted tokenizing, {}",
                               core::counted(begin.counts.documents, "document"),
                               core::counted(begin.counts.tokens, "token")));
  TokenFileWriter writer(name, tokenizer.vocabulary_size(), {begin.counts.documents, begin.counts.tokens},
                         encoder.has_targets());
  Output output(journal, writer, files, begin, options.save_every);
  JobReader reader(inputs, begin, options.max_document_bytes);
  if (options.progress) options.progress(begin.counts, reader.bytes_before(), num_bytes);

  OrderedWork<Job, Encoded> work;
  work.read = [&] { return reader.next(); };
  work.work = [&](const Job& job) { return encode(job, encoder, options); };
  work.write = [&](const Encoded& encoded) {
    output.write(encoded);
    if (options.progress) options.progress(output.counts(), encoded.input_bytes, num_bytes);
  };
  work.cost = [](const Job& job) {
    const std::int64_t bytes =
        job.input->is_json_lines ? static_cast<std::int64_t>(job.block.text.size()) : job.input->file.bytes;
    return std::max(bytes, least_cost);
  };
  work.most_cost = std::max(bytes_at_once, options.threads * bytes_a_thread);
  try {
    work.run(options.threads);
    check(output.counts().documents > 0, "{}: there is no text in {} files", fmt::join(paths, ", "), files.size());
  } catch (...) {
    try {
      output.save();
    } catch (const std::exception&) {  // the first error is the one to be told
    }
    if (output.counts().documents == 0) journal.remove();
    throw;
  }
  TokenMeta meta = meta_of(tokenizer, options.parse_special, writer.size());
  meta.chat_template = encoder.chat_name();
  meta.has_pairs = encoder.has_pairs();
  write_token_meta(name, meta);
  writer.finish();
  if (options.is_kept) write_token_hash(name);
  journal.remove();
  return output.counts();
}

}  // namespace limbeck::data
