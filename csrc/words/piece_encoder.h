// Ids of printable ASCII texts: split into pieces, and the pieces into tokens, as the tokenizers
// do.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace fuse_index::words {

// How a text is split into pieces; all are regular expressions or rules of well-known tokenizers.
enum class Split {
  kGpt2 = 0,  // contractions, letters, digits, other characters, each with a space before it
  kClip = 1,  // the same without spaces, digits one by one
  kBert = 2,  // at spaces, every punctuation mark alone
  kGpt4 = 3,  // as GPT-2, letters with any one character before them, up to three digits
  kQwen = 4,  // as GPT-4, digits one by one
};

struct Merge {
  int64_t left;
  int64_t right;
  int64_t merged;
};

// A piece is a row of characters that are merged pair by pair, the earliest merge first (Sennrich
// et al. 2016).
struct PairMerges {
  std::array<int64_t, 128> inside;  // the id of a character; -1 where it has none
  std::array<int64_t, 128> last;    // of a piece's last character
  std::vector<std::string> words;   // pieces that are tokens as they are, without merging
  std::vector<int64_t> word_ids;
  std::vector<Merge> merges;  // the earliest first
};

// A piece is cut into the longest words of a list, from left to right (WordPiece, Wu et al. 2016).
struct LongestWords {
  std::vector<std::string> words;  // at the beginning of a piece
  std::vector<int64_t> word_ids;
  std::vector<std::string> suffixes;  // further on
  std::vector<int64_t> suffix_ids;
  int64_t unknown;
  size_t longest;  // a longer piece is unknown
};

class PieceEncoder {
 public:
  PieceEncoder(Split split, bool lower, PairMerges merges);
  PieceEncoder(Split split, bool lower, LongestWords words);

  // Appends the ids of a text, or returns false and appends nothing: it is not of printable ASCII
  // with at most one space, at its beginning; or it is long, has a character
  // without an id, or may spell one of CLIP's special tokens.
  bool encode(std::string_view text, std::vector<int64_t>* ids) const;

 private:
  struct Rank {
    size_t rank;
    int64_t merged;
  };
  using Table = std::unordered_map<std::string, int64_t>;

  size_t piece_end(std::string_view text, size_t begin) const;
  bool encode_piece(std::string_view piece, std::vector<int64_t>* ids) const;
  bool merge(std::string_view piece, std::vector<int64_t>* ids) const;
  void cut(std::string_view piece, std::vector<int64_t>* ids) const;

  Split split_;
  bool lower_;
  bool merges_;
  std::array<int64_t, 128> inside_{};
  std::array<int64_t, 128> last_{};
  std::unordered_map<uint64_t, Rank> ranks_;
  Table words_;
  Table suffixes_;
  int64_t unknown_ = 0;
  size_t longest_ = 0;
  size_t longest_word_ = 0;
};

}  // namespace fuse_index::words
