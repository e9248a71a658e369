#include "retokenizer.h"

#include <algorithm>
#include <cstring>
#include <mutex>
#include <thread>
#include <utility>

#include "text.h"

namespace fuse_index::words {
namespace {

constexpr int64_t kTokensPerThread = 16384;  // below, starting a thread costs more than it saves

template <class T>
void append(std::vector<T>& to, std::vector<T>& from) {
  to.insert(to.end(), std::make_move_iterator(from.begin()), std::make_move_iterator(from.end()));
}

}  // namespace

// Works through consecutive rows; one per thread.
class Retokenizer::Worker {
 public:
  explicit Worker(const Retokenizer& owner) : owner_(owner) {}

  void run(const Batch& batch, int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const size_t targets = pass.target.size();
      const size_t words = pass.p.size();
      Status status = Status::kExact;
      if (decode(batch.ids + row * batch.width, batch.lengths[row])) status = look_up();
      if (status != Status::kDone) {
        pass.target.resize(targets);
        pass.p.resize(words);
        pass.q.resize(words);
      }
      pass.status.push_back(static_cast<uint8_t>(status));
      pass.target_counts.push_back(static_cast<int64_t>(pass.target.size() - targets));
      pass.word_counts.push_back(static_cast<int64_t>(pass.p.size() - words));
    }
  }

  Pass pass;

 private:
  // Fills text_ and starts_; false if only the tokenizer can decode the row.
  bool decode(const int64_t* ids, int64_t length) {
    const Source& source = owner_.source_;
    buffer_.clear();
    starts_.clear();
    for (int64_t i = 0; i < length; ++i) {
      if (source.exact[static_cast<size_t>(ids[i])]) return false;
      const std::string_view piece = (i == 0 ? source.first : source.inside)[ids[i]];
      starts_.push_back(buffer_.size());
      buffer_.append(piece);
    }
    if (!is_utf8(buffer_)) return false;
    text_ = buffer_;
    if (source.strip) {
      const Span kept = strip(text_);
      text_ = text_.substr(kept.begin, kept.end - kept.begin);
      for (size_t& start : starts_) {
        start = std::min(std::max(start, kept.begin) - kept.begin, text_.size());
      }
    }
    return true;
  }

  // Cuts text_ into parts and appends their ids; a word ends where a cut meets a token's start.
  Status look_up() {
    size_t begin = 0;
    size_t token = 0;
    size_t word_token = 0;
    size_t word_target = pass.target.size();
    bool missing = false;
    for (size_t cut = next_cut(1);; cut = next_cut(cut + 1)) {
      const size_t end = std::min(cut, text_.size());
      const Part part{text_.substr(begin, end - begin), begin == 0};
      PartIds found;
      if (!owner_.cache_.find(part, &found)) {
        pass.missing.push_back({std::string(part.bytes), part.initial});
        missing = true;
      } else if (found.whole) {
        return Status::kExact;
      } else {
        pass.target.insert(pass.target.end(), found.ids, found.ids + found.count);
      }
      if (cut == std::string_view::npos) break;
      begin = cut;
      while (token < starts_.size() && starts_[token] < cut) ++token;
      if (token < starts_.size() && starts_[token] <= cut + 1) {
        close_word(token - word_token, &word_target);
        word_token = token;
      }
    }
    if (missing) return Status::kMissing;
    if (!starts_.empty() || pass.target.size() > word_target) {
      close_word(starts_.size() - word_token, &word_target);
    }
    return Status::kDone;
  }

  void close_word(size_t tokens, size_t* word_target) {
    pass.p.push_back(static_cast<int64_t>(tokens));
    pass.q.push_back(static_cast<int64_t>(pass.target.size() - *word_target));
    *word_target = pass.target.size();
  }

  // The next space at or after `from` that begins a part, or npos.
  size_t next_cut(size_t from) const {
    while (from + 1 < text_.size()) {
      const size_t at = text_.find(' ', from);
      if (at == std::string_view::npos || owner_.is_cut(text_, at)) return at;
      from = at + 1;
    }
    return std::string_view::npos;
  }

  const Retokenizer& owner_;
  std::string buffer_;
  std::string_view text_;
  std::vector<size_t> starts_;  // where each token begins in text_
};

Retokenizer::Retokenizer(Source source, std::vector<uint8_t> neighbours)
    : source_(std::move(source)), neighbours_(std::move(neighbours)) {}

bool Retokenizer::is_cut(std::string_view text, size_t at) const {
  if (at == 0 || at + 1 >= text.size()) return false;
  return is_neighbour(character_at(text, at + 1)) &&
         is_neighbour(character_at(text, previous(text, at)));
}

Pass Retokenizer::process(const Batch& batch, int threads) const {
  const std::shared_lock<std::shared_mutex> lock(mutex_);
  const int64_t useful = std::max<int64_t>(1, batch.rows * batch.width / kTokensPerThread);
  const int64_t count = std::max<int64_t>(1, std::min<int64_t>({threads, useful, batch.rows}));
  std::vector<Worker> workers(static_cast<size_t>(count), Worker(*this));
  const auto run = [&](int64_t i) {
    workers[static_cast<size_t>(i)].run(batch, batch.rows * i / count,
                                        batch.rows * (i + 1) / count);
  };
  std::vector<std::thread> others;
  for (int64_t i = 1; i < count; ++i) others.emplace_back(run, i);
  run(0);
  for (std::thread& other : others) other.join();
  Pass all = std::move(workers[0].pass);
  for (size_t i = 1; i < workers.size(); ++i) {
    Pass& part = workers[i].pass;
    append(all.status, part.status);
    append(all.target_counts, part.target_counts);
    append(all.word_counts, part.word_counts);
    append(all.target, part.target);
    append(all.p, part.p);
    append(all.q, part.q);
    append(all.missing, part.missing);
  }
  return all;
}

void Retokenizer::insert(const std::vector<Part>& parts, const std::vector<PartIds>& values) {
  const std::unique_lock<std::shared_mutex> lock(mutex_);
  for (size_t i = 0; i < parts.size(); ++i) cache_.insert(parts[i], values[i]);
}

void Retokenizer::clear() {
  const std::unique_lock<std::shared_mutex> lock(mutex_);
  cache_.clear();
}

size_t Retokenizer::size() const {
  const std::shared_lock<std::shared_mutex> lock(mutex_);
  return cache_.size();
}

}  // namespace fuse_index::words
