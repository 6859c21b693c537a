#include "data/text/text_jobs.h"

#include <utility>

namespace limbeck::data {

std::optional<TextJob> TextJobs::next() {
  if (at_ == files_.size()) return std::nullopt;
  TextJob job{.file = files_[at_]};
  if (is_json_lines(job.file, format_)) {
    if (!lines_) lines_ = std::make_unique<LineReader>(job.file, LinePlace{}, max_document_bytes);
    job.lines = lines_->next();
    if (!job.lines->is_last) return job;
    lines_.reset();
  }
  ++at_;
  return job;
}

void for_each_document(const TextJob& job, const JsonField& field,
                       const std::function<void(std::string&&, std::int64_t)>& use) {
  const auto named = [&](std::string&& text, std::int64_t line) {
    of_file(job.file, [&] { use(std::move(text), line); });
  };
  if (job.lines)
    for_each_text(*job.lines, field, job.file, named);
  else
    named(read_document(job.file, TextJobs::max_document_bytes), 0);
}

}  // namespace limbeck::data
