#include "piece_encoder.h"

#include <algorithm>
#include <limits>

namespace fuse_index::words {
namespace {

enum class Kind { kNone, kLetter, kDigit, kOther };

constexpr size_t kLongestText = 128;  // merging looks for the best of all pairs every time

bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
bool is_digit(char c) { return c >= '0' && c <= '9'; }
char lowered(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

// How many characters of 's, 't, 're, 've, 'm, 'll or 'd begin here.
size_t contraction(std::string_view text, bool any_case) {
  if (text.size() < 2 || text[0] != '\'') return 0;
  const auto at = [&](size_t i) {
    if (i >= text.size()) return '\0';
    return any_case ? lowered(text[i]) : text[i];
  };
  const char first = at(1), second = at(2);
  if (first == 's' || first == 't' || first == 'm' || first == 'd') return 2;
  if ((first == 'r' || first == 'v') && second == 'e') return 3;
  return first == 'l' && second == 'l' ? 3 : 0;
}

uint64_t pair_key(int64_t left, int64_t right) {
  return static_cast<uint64_t>(left) << 32 | static_cast<uint64_t>(right);
}

template <class Ids>
std::unordered_map<std::string, int64_t> table_of(std::vector<std::string> words, const Ids& ids) {
  std::unordered_map<std::string, int64_t> table;
  for (size_t i = 0; i < words.size(); ++i) table.emplace(std::move(words[i]), ids[i]);
  return table;
}

}  // namespace

PieceEncoder::PieceEncoder(Split split, bool lower, PairMerges merges)
    : split_(split), lower_(lower), merges_(true), inside_(merges.inside), last_(merges.last) {
  ranks_.reserve(merges.merges.size());
  for (size_t i = 0; i < merges.merges.size(); ++i) {
    const Merge& merge = merges.merges[i];
    ranks_.emplace(pair_key(merge.left, merge.right), Rank{i, merge.merged});
  }
  words_ = table_of(std::move(merges.words), merges.word_ids);
}

PieceEncoder::PieceEncoder(Split split, bool lower, LongestWords words)
    : split_(split),
      lower_(lower),
      merges_(false),
      unknown_(words.unknown),
      longest_(words.longest) {
  for (const auto* list : {&words.words, &words.suffixes}) {
    for (const std::string& word : *list) longest_word_ = std::max(longest_word_, word.size());
  }
  words_ = table_of(std::move(words.words), words.word_ids);
  suffixes_ = table_of(std::move(words.suffixes), words.suffix_ids);
}

bool PieceEncoder::encode(std::string_view text, std::vector<int64_t>* ids) const {
  if (text.size() > kLongestText) return false;
  std::array<char, kLongestText> buffer;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c < ' ' || c > '~' || (c == ' ' && (i > 0 || text.size() == 1))) return false;
    buffer[i] = lower_ ? lowered(c) : c;
  }
  const std::string_view plain(buffer.data(), text.size());
  // CLIP's pattern may take <|startoftext|> and <|endoftext|> for one piece.
  if (split_ == Split::kClip && plain.find("<|") != std::string_view::npos) return false;
  const size_t before = ids->size();
  size_t at = 0;
  while (at < plain.size()) {
    if ((split_ == Split::kClip || split_ == Split::kBert) && plain[at] == ' ') {
      ++at;
      continue;
    }
    const size_t end = piece_end(plain, at);
    if (!encode_piece(plain.substr(at, end - at), ids)) {
      ids->resize(before);
      return false;
    }
    at = end;
  }
  return true;
}

size_t PieceEncoder::piece_end(std::string_view text, size_t begin) const {
  const bool four = split_ == Split::kGpt4 || split_ == Split::kQwen;
  if (split_ != Split::kBert) {
    if (const size_t size = contraction(text.substr(begin), four)) return begin + size;
  }
  const auto kind = [&](size_t at) {
    if (at >= text.size()) return Kind::kNone;
    return is_letter(text[at]) ? Kind::kLetter : is_digit(text[at]) ? Kind::kDigit : Kind::kOther;
  };
  const auto run_end = [&](size_t at, Kind of, size_t most) {
    const size_t stop = std::min(text.size(), most < text.size() - at ? at + most : text.size());
    while (at < stop && kind(at) == of) ++at;
    return at;
  };
  constexpr size_t kAll = kLongestText;
  size_t at = begin;
  if (four && kind(at) == Kind::kOther && kind(at + 1) == Kind::kLetter) ++at;
  if (text[at] == ' ') {
    // GPT-4's numbers have no space before them
    if (four && kind(at + 1) == Kind::kDigit) return at + 1;
    ++at;
  }
  const Kind here = kind(at);
  if (split_ == Split::kBert) {
    if (here == Kind::kOther) return at + 1;
    while (kind(at) == Kind::kLetter || kind(at) == Kind::kDigit) ++at;
    return at;
  }
  if (here != Kind::kDigit) return run_end(at, here, kAll);
  const bool single = split_ == Split::kClip || split_ == Split::kQwen;
  return run_end(at, here, single ? 1 : split_ == Split::kGpt4 ? 3 : kAll);
}

bool PieceEncoder::encode_piece(std::string_view piece, std::vector<int64_t>* ids) const {
  if (merges_) return merge(piece, ids);
  cut(piece, ids);
  return true;
}

bool PieceEncoder::merge(std::string_view piece, std::vector<int64_t>* ids) const {
  if (!words_.empty()) {
    const auto whole = words_.find(std::string(piece));
    if (whole != words_.end()) {
      ids->push_back(whole->second);
      return true;
    }
  }
  std::array<int64_t, kLongestText> symbols;
  size_t count = piece.size();
  for (size_t i = 0; i < count; ++i) {
    const auto code = static_cast<size_t>(piece[i]);
    symbols[i] = i + 1 == count ? last_[code] : inside_[code];
    if (symbols[i] < 0) return false;
  }
  constexpr size_t kNone = std::numeric_limits<size_t>::max();
  std::array<Rank, kLongestText> pairs;  // pair i is of symbols i and i + 1
  const auto rank = [&](size_t i) {
    const auto found = ranks_.find(pair_key(symbols[i], symbols[i + 1]));
    return found == ranks_.end() ? Rank{kNone, 0} : found->second;
  };
  for (size_t i = 0; i + 1 < count; ++i) pairs[i] = rank(i);
  while (count > 1) {
    size_t where = 0;
    for (size_t i = 1; i + 1 < count; ++i) {
      if (pairs[i].rank < pairs[where].rank) where = i;
    }
    if (pairs[where].rank == kNone) break;
    symbols[where] = pairs[where].merged;
    --count;
    for (size_t i = where + 1; i < count; ++i) symbols[i] = symbols[i + 1];
    for (size_t i = where + 1; i + 1 < count; ++i) pairs[i] = pairs[i + 1];
    // only the pairs beside the merged one are others now
    if (where > 0) pairs[where - 1] = rank(where - 1);
    if (where + 1 < count) pairs[where] = rank(where);
  }
  ids->insert(ids->end(), symbols.begin(), symbols.begin() + static_cast<std::ptrdiff_t>(count));
  return true;
}

void PieceEncoder::cut(std::string_view piece, std::vector<int64_t>* ids) const {
  const size_t before = ids->size();
  size_t begin = 0;
  std::string key;
  while (begin < piece.size() && piece.size() <= longest_) {
    const Table& table = begin == 0 ? words_ : suffixes_;
    size_t size = std::min(piece.size() - begin, longest_word_);
    auto found = table.end();
    for (; size > 0; --size) {
      key.assign(piece.substr(begin, size));
      found = table.find(key);
      if (found != table.end()) break;
    }
    if (size == 0) break;
    ids->push_back(found->second);
    begin += size;
  }
  if (begin == piece.size()) return;
  ids->resize(before);
  ids->push_back(unknown_);
}

}  // namespace fuse_index::words
