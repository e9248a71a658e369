#include "retokenizer.h"

#include <algorithm>
#include <cstring>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "text.h"

namespace fuse_index::words {
namespace {

constexpr int64_t kTokensPerThread = 16384;  // below, starting a thread costs more than it saves

template <class T>
typename std::vector<T>::const_iterator at(const std::vector<T>& values, size_t index) {
  return values.begin() + static_cast<std::ptrdiff_t>(index);
}

template <class T>
void append(std::vector<T>& to, const std::vector<T>& from, size_t begin, size_t end) {
  to.insert(to.end(), at(from, begin), at(from, end));
}

template <class T>
void append(std::vector<T>& to, const std::vector<T>& from) {
  append(to, from, 0, from.size());
}

}  // namespace

// Works through consecutive rows; one per thread.
//
// Candidates of one prompt differ in few tokens. A row that mostly equals the base takes the parts
// before and after the difference from there. The base is what most of the first three rows have in
// each place, which is the prompt; later any row that has little in common with the base so far.
class Retokenizer::Worker {
 public:
  explicit Worker(const Retokenizer& owner) : owner_(owner) {}

  void run(const Batch& batch, int64_t begin, int64_t end) {
    set_base_by_majority(batch, begin, end);
    const auto tokens = static_cast<size_t>((end - begin) * batch.width);
    pass.target.reserve(tokens + tokens / 2);
    pass.p.reserve(tokens);
    pass.q.reserve(tokens);
    for (int64_t row = begin; row < end; ++row) {
      const size_t targets = pass.target.size();
      const size_t words = pass.p.size();
      const auto length = static_cast<size_t>(batch.lengths[row]);
      const Status status = convert(batch.ids + row * batch.width, length);
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
  std::vector<FreshPart> fresh;  // parts encoded here

 private:
  // Where a part begins, and how far the row had come there.
  struct Step {
    size_t begin;   // in the text
    size_t target;  // ids
    size_t words;   // words that ended
    size_t token;   // the first token at or after the cut
    bool closed;    // a word ended at the cut
  };

  struct Base {
    std::vector<int64_t> ids;
    std::string text;
    std::vector<size_t> starts;
    std::vector<Step> steps;
    std::vector<int64_t> target;
    std::vector<int64_t> p;
    std::vector<int64_t> q;
  };

  // How many tokens a row shares with the base at both ends; never both the same token.
  struct Shared {
    size_t head = 0;
    size_t tail = 0;
  };

  void set_base_by_majority(const Batch& batch, int64_t begin, int64_t end) {
    if (end - begin < 3) return;
    const int64_t* lengths = batch.lengths + begin;
    if (lengths[0] != lengths[1] || lengths[0] != lengths[2]) return;
    const int64_t* a = batch.ids + begin * batch.width;
    const int64_t* b = a + batch.width;
    const int64_t* c = b + batch.width;
    std::vector<int64_t> majority(a, a + lengths[0]);
    for (size_t i = 0; i < majority.size(); ++i) {
      if (b[i] == c[i]) majority[i] = b[i];
    }
    convert(majority.data(), majority.size());
    pass.target.clear();
    pass.p.clear();
    pass.q.clear();
    pass.missing.clear();
  }

  Status convert(const int64_t* ids, size_t length) {
    const size_t target_at = pass.target.size();
    const size_t words_at = pass.p.size();
    Shared shared = compare(ids, length);
    if (2 * (shared.head + shared.tail) < length) shared = {};
    const bool anew = shared.head + shared.tail == 0;
    if (!decode(ids, length, shared)) return Status::kExact;
    if (anew) steps_.clear();
    const Status status = look_up(shared, anew);
    if (status == Status::kDone && anew && !owner_.source_.strip && !replaced_) {
      base_.ids.assign(ids, ids + length);
      base_.text.swap(buffer_);
      base_.starts.swap(starts_);
      base_.steps.swap(steps_);
      base_.target.assign(at(pass.target, target_at), pass.target.cend());
      base_.p.assign(at(pass.p, words_at), pass.p.cend());
      base_.q.assign(at(pass.q, words_at), pass.q.cend());
    }
    return status;
  }

  Shared compare(const int64_t* ids, size_t length) const {
    const size_t size = base_.ids.size();
    const size_t shorter = std::min(size, length);
    Shared shared;
    while (shared.head < shorter && ids[shared.head] == base_.ids[shared.head]) ++shared.head;
    // The first token of a row has a text of its own: it is never of the tail.
    const size_t most = shorter - std::min(shorter, std::max<size_t>(shared.head, 1));
    while (shared.tail < most &&
           ids[length - 1 - shared.tail] == base_.ids[size - 1 - shared.tail]) {
      ++shared.tail;
    }
    return shared;
  }

  // Fills text_ and starts_; false if only the tokenizer can decode the row.
  bool decode(const int64_t* ids, size_t length, Shared shared) {
    const Source& source = owner_.source_;
    buffer_.assign(base_.text, 0, base_start(shared.head));
    starts_.assign(base_.starts.cbegin(), at(base_.starts, shared.head));
    for (size_t i = shared.head; i + shared.tail < length; ++i) {
      if (source.exact[static_cast<size_t>(ids[i])]) return false;
      starts_.push_back(buffer_.size());
      buffer_.append((i == 0 ? source.first : source.inside)[ids[i]]);
    }
    const size_t tail = base_.starts.size() - shared.tail;
    const size_t tail_at = shared.tail > 0 ? base_.starts[tail] : base_.text.size();
    for (size_t i = tail; i < base_.starts.size() && shared.tail > 0; ++i) {
      starts_.push_back(base_.starts[i] - tail_at + buffer_.size());
    }
    if (shared.tail > 0) buffer_.append(base_.text, tail_at, std::string::npos);
    replaced_ = !is_ascii(buffer_) && replace_wrong_bytes();
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

  size_t base_start(size_t token) const {
    return token < base_.starts.size() ? base_.starts[token] : base_.text.size();
  }

  // As bytes.decode("utf-8", "replace"); a token that begins inside what is replaced begins after.
  // Returns whether anything was.
  bool replace_wrong_bytes() {
    static constexpr char kMark[] = "\xEF\xBF\xBD";
    size_t at = 0;
    size_t wrong = 0;
    while (at < buffer_.size()) {
      const size_t size = character_size(buffer_, at, &wrong);
      if (size == 0) break;
      at += size;
    }
    if (at == buffer_.size()) return false;  // nearly always
    repaired_.assign(buffer_, 0, at);
    auto start = std::lower_bound(starts_.begin(), starts_.end(), at);
    while (at < buffer_.size()) {
      const size_t size = character_size(buffer_, at, &wrong);
      const size_t next = at + (size > 0 ? size : wrong);
      for (; start != starts_.end() && *start < next; ++start) {
        const size_t within = *start - at;
        *start = repaired_.size() + (size > 0 || within == 0 ? within : sizeof(kMark) - 1);
      }
      if (size > 0) {
        repaired_.append(buffer_, at, size);
      } else {
        repaired_.append(kMark, sizeof(kMark) - 1);
      }
      at = next;
    }
    std::fill(start, starts_.end(), repaired_.size());
    buffer_.swap(repaired_);
    return true;
  }

  // Encodes a part that the cache lacks; its ids are valid until the next one.
  bool encode(Part part, PartIds* found) {
    if (owner_.encoder_ == nullptr) return false;
    if (known_ && known_->find(part, found)) return true;
    part_ids_.clear();
    if (!owner_.encoder_->encode(part.bytes, &part_ids_)) return false;
    *found = {part_ids_.data(), part_ids_.size(), false};
    if (!known_) known_.emplace();
    known_->insert(part, *found);
    fresh.push_back({std::string(part.bytes), part.initial, part_ids_});
    return true;
  }

  // Cuts text_ into parts and appends their ids; a word ends where a cut meets a token's start.
  Status look_up(Shared shared, bool record) {
    const size_t target_at = pass.target.size();
    const size_t words_at = pass.p.size();
    Step step{0, 0, 0, 0, true};
    if (shared.head > 0 && !replaced_) step = take_head(base_start(shared.head));
    const size_t tail_at =
        shared.tail > 0 && !replaced_ ? starts_[starts_.size() - shared.tail] : std::string::npos;
    size_t word_token = step.token;
    size_t word_target = pass.target.size();
    bool missing = false;
    for (size_t cut = next_cut(step.begin + 1);; cut = next_cut(cut + 1)) {
      const Part part{text_.substr(step.begin, std::min(cut, text_.size()) - step.begin),
                      step.begin == 0};
      PartIds found;
      if (!owner_.cache_.find(part, &found) && !encode(part, &found)) {
        pass.missing.push_back({std::string(part.bytes), part.initial});
        missing = true;
      } else if (found.whole) {
        return Status::kExact;
      } else {
        pass.target.insert(pass.target.end(), found.ids, found.ids + found.count);
      }
      if (cut == std::string_view::npos) break;
      step.begin = cut;
      while (step.token < starts_.size() && starts_[step.token] < cut) ++step.token;
      step.closed = step.token < starts_.size() && starts_[step.token] <= cut + 1;
      if (step.closed) {
        close_word(step.token - word_token, &word_target);
        word_token = step.token;
        if (tail_at != std::string::npos && cut >= tail_at + kReach && take_tail(cut)) {
          return missing ? Status::kMissing : Status::kDone;
        }
      }
      if (record) {
        step.target = pass.target.size() - target_at;
        step.words = pass.p.size() - words_at;
        steps_.push_back(step);
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

  // Takes from the base what lies before the last cut, where a word ended, that the first `size`
  // bytes decide about; returns where that leaves the row.
  Step take_head(size_t size) {
    for (auto step = base_.steps.rbegin(); step != base_.steps.rend(); ++step) {
      if (!step->closed || step->begin + kReach > size) continue;
      append(pass.target, base_.target, 0, step->target);
      append(pass.p, base_.p, 0, step->words);
      append(pass.q, base_.q, 0, step->words);
      return *step;
    }
    return {0, 0, 0, 0, true};
  }

  // Takes everything after a cut in the tail from the base, if it has a word's end there, too.
  bool take_tail(size_t cut) {
    const size_t there = cut + base_.text.size() - text_.size();
    const auto step = std::lower_bound(base_.steps.begin(), base_.steps.end(), there,
                                       [](const Step& a, size_t at) { return a.begin < at; });
    if (step == base_.steps.end() || step->begin != there || !step->closed) return false;
    append(pass.target, base_.target, step->target, base_.target.size());
    append(pass.p, base_.p, step->words, base_.p.size());
    append(pass.q, base_.q, step->words, base_.q.size());
    return true;
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

  // A cut depends on the characters beside it, so on less than this many bytes either way.
  static constexpr size_t kReach = 5;

  const Retokenizer& owner_;
  std::optional<PartCache> known_;  // what is in `fresh`
  std::vector<int64_t> part_ids_;
  std::string buffer_;
  std::string repaired_;
  std::string_view text_;
  std::vector<size_t> starts_;  // where each token begins in text_
  std::vector<Step> steps_;
  bool replaced_ = false;
  Base base_;
};

Retokenizer::Retokenizer(Source source, std::vector<uint8_t> neighbours)
    : source_(std::move(source)), neighbours_(std::move(neighbours)) {}

bool Retokenizer::is_cut(std::string_view text, size_t at) const {
  if (at == 0 || at + 1 >= text.size()) return false;
  return is_neighbour(character_at(text, at + 1)) &&
         is_neighbour(character_at(text, previous(text, at)));
}

Pass Retokenizer::process(const Batch& batch, int threads) {
  std::shared_lock<std::shared_mutex> reading(mutex_);
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
  reading.unlock();
  remember(workers);
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

void Retokenizer::remember(const std::vector<Worker>& workers) {
  for (const Worker& worker : workers) {
    if (worker.fresh.empty()) continue;
    const std::unique_lock<std::shared_mutex> writing(mutex_);
    for (const FreshPart& part : worker.fresh) {
      cache_.insert({part.bytes, part.initial}, {part.ids.data(), part.ids.size(), false});
    }
  }
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
