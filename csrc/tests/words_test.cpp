// Drives csrc/words against plain reference code, under sanitizers: tests/words/test_native.py
// compiles and runs it. Prints the first difference and fails, or prints nothing.
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "../words/part_cache.h"
#include "../words/retokenizer.h"
#include "../words/text.h"
#include "expect.h"
#include "piece_tests.h"

namespace {

using namespace fuse_index::words;

std::mt19937 generator(1);

size_t below(size_t limit) {
  return std::uniform_int_distribution<size_t>(0, limit - 1)(generator);
}

std::string utf8(uint32_t code) {
  if (code < 0x80) return {static_cast<char>(code)};
  if (code < 0x800)
    return {static_cast<char>(0xC0 | code >> 6), static_cast<char>(0x80 | (code & 63))};
  if (code < 0x10000) {
    return {static_cast<char>(0xE0 | code >> 12), static_cast<char>(0x80 | (code >> 6 & 63)),
            static_cast<char>(0x80 | (code & 63))};
  }
  return {static_cast<char>(0xF0 | code >> 18), static_cast<char>(0x80 | (code >> 12 & 63)),
          static_cast<char>(0x80 | (code >> 6 & 63)), static_cast<char>(0x80 | (code & 63))};
}

void test_every_character() {
  size_t wrong = 0;
  for (uint32_t code = 0; code <= 0x10FFFF; ++code) {
    const std::string text = utf8(code);
    const bool surrogate = code >= 0xD800 && code < 0xE000;
    EXPECT(character_size(text, 0, &wrong) == (surrogate ? 0 : text.size()));
    if (surrogate) {
      EXPECT(wrong == 1);
      continue;
    }
    EXPECT(character_at(text, 0) == code);
    EXPECT(previous("a" + text, 1 + text.size()) == 1);
    EXPECT(is_ascii(text) == (code < 0x80));
    for (size_t cut = 1; cut < text.size(); ++cut) {
      EXPECT(character_size(text.substr(0, cut), 0, &wrong) == 0);
      EXPECT(wrong == cut);
    }
  }
}

void test_wrong_bytes() {
  const std::pair<std::string, size_t> cases[] = {{"\xFF", 1},
                                                  {"\x80", 1},
                                                  {"\xC0\x80", 1},
                                                  {"\xC1\xBF", 1},
                                                  {"\xE0\x80\x80", 1},
                                                  {"\xE2\x82(", 2},
                                                  {"\xF0\x80\x80\x80", 1},
                                                  {"\xF0\x9F\x98(", 3},
                                                  {"\xF4\x90\x80\x80", 1},
                                                  {"\xF5\x80", 1},
                                                  {"\xED\xA0\x80", 1},
                                                  {"\xC3(", 1}};
  for (const auto& [bytes, expected] : cases) {
    size_t wrong = 0;
    EXPECT(character_size(bytes, 0, &wrong) == 0);
    EXPECT(wrong == expected);
  }
}

void test_strip() {
  const std::string spaces[] = {" ",        "\t",         "\x1C",      utf8(0x85),
                                utf8(0xA0), utf8(0x2003), utf8(0x3000)};
  for (int round = 0; round < 2000; ++round) {
    std::string left, right;
    for (size_t i = below(4); i > 0; --i) left += spaces[below(7)];
    for (size_t i = below(4); i > 0; --i) right += spaces[below(7)];
    const std::string core = below(5) == 0 ? "" : utf8(0xE9) + (below(2) ? " " + utf8(0x4E2D) : "");
    const Span kept = strip(left + core + right);
    EXPECT((left + core + right).substr(kept.begin, kept.end - kept.begin) == core);
  }
}

void test_cache_against_map() {
  PartCache cache;
  std::map<std::pair<std::string, bool>, std::vector<int64_t>> reference;
  for (int round = 0; round < 20000; ++round) {
    std::string key;
    for (size_t i = below(12); i > 0; --i) key += static_cast<char>('a' + below(3));
    const bool initial = below(2) != 0;
    std::vector<int64_t> ids(below(5));
    for (int64_t& id : ids) id = static_cast<int64_t>(below(1000));
    cache.insert({key, initial}, {ids.data(), ids.size(), false});
    reference.emplace(std::make_pair(key, initial), ids);
  }
  EXPECT(cache.size() == reference.size());
  for (const auto& [key, ids] : reference) {
    PartIds found;
    EXPECT(cache.find({key.first, key.second}, &found));
    EXPECT(std::vector<int64_t>(found.ids, found.ids + found.count) == ids);
    EXPECT(!found.whole);
  }
  PartIds found;
  EXPECT(!cache.find({"absent", true}, &found));
  cache.clear();
  EXPECT(cache.size() == 0);
  EXPECT(!cache.find({"a", true}, &found));
}

// A source whose tokens are these pieces, and a target that gives every byte of a part an id; what
// follows "whole" must not be taken apart.
const std::vector<std::string> kPieces = {"a",    " b",   "c d",          " ",      "",
                                          "\xC3", "\xA9", "\xE4\xB8\xAD", " whole", "\n",
                                          " e f", "x",    "\xE2\x80"};
constexpr int64_t kExactToken = 11;

std::vector<int64_t> target_of(const std::string& part, bool initial) {
  std::vector<int64_t> ids;
  for (const char c : part) {
    if (c != ' ') ids.push_back(static_cast<unsigned char>(c) + (initial ? 1000 : 0));
  }
  return ids;
}

Strings strings_of(const std::vector<std::string>& items) {
  Strings strings;
  strings.offsets.push_back(0);
  for (const std::string& item : items) {
    strings.bytes += item;
    strings.offsets.push_back(static_cast<int64_t>(strings.bytes.size()));
  }
  return strings;
}

Retokenizer make(bool strip) {
  std::vector<uint8_t> neighbours(65536, 0);
  for (size_t code = 0x21; code < 0x7F; ++code) neighbours[code] = 1;
  neighbours[0xE9] = 1;
  std::vector<uint8_t> exact(kPieces.size(), 0);
  exact[kExactToken] = 1;
  return Retokenizer({strings_of(kPieces), strings_of(kPieces), exact, strip}, neighbours);
}

void fill(Retokenizer& retokenizer, const std::vector<MissingPart>& missing) {
  std::vector<std::vector<int64_t>> ids;
  for (const MissingPart& part : missing) ids.push_back(target_of(part.bytes, part.initial));
  std::vector<Part> parts;
  std::vector<PartIds> values;
  for (size_t i = 0; i < missing.size(); ++i) {
    parts.push_back({missing[i].bytes, missing[i].initial});
    const bool whole = missing[i].bytes.find("whole") != std::string::npos;
    values.push_back({ids[i].data(), ids[i].size(), whole});
  }
  retokenizer.insert(parts, values);
}

struct Rows {
  std::vector<int64_t> ids;
  std::vector<int64_t> lengths;
  int64_t width;
  Batch batch() const {
    return {ids.data(), lengths.data(), static_cast<int64_t>(lengths.size()), width};
  }
};

Rows random_rows(size_t count, int64_t width) {
  Rows rows{{}, {}, width};
  for (size_t i = 0; i < count; ++i) {
    rows.lengths.push_back(static_cast<int64_t>(below(static_cast<size_t>(width) + 1)));
    for (int64_t j = 0; j < width; ++j) {
      int64_t id = static_cast<int64_t>(below(kPieces.size()));
      if (id == kExactToken && below(20) != 0) id = 0;
      rows.ids.push_back(j < rows.lengths.back() ? id : -99);  // padding is never looked at
    }
  }
  return rows;
}

Pass settle(Retokenizer& retokenizer, const Rows& rows, int threads) {
  for (int round = 0; round < 3; ++round) {
    Pass pass = retokenizer.process(rows.batch(), threads);
    if (pass.missing.empty()) return pass;
    fill(retokenizer, pass.missing);
  }
  EXPECT(!"parts are still missing");
  std::abort();
}

void test_rows(bool strip) {
  Retokenizer retokenizer = make(strip);
  const Rows rows = random_rows(4000, 9);
  const Pass pass = settle(retokenizer, rows, 1);
  EXPECT(pass.status.size() == rows.lengths.size());
  size_t target = 0, word = 0;
  for (size_t row = 0; row < rows.lengths.size(); ++row) {
    bool exact = false;
    for (int64_t j = 0; j < rows.lengths[row]; ++j) {
      const int64_t id = rows.ids[row * 9 + static_cast<size_t>(j)];
      exact |= id == kExactToken || kPieces[static_cast<size_t>(id)] == " whole";
    }
    EXPECT(pass.status[row] == static_cast<uint8_t>(exact ? Status::kExact : Status::kDone));
    int64_t p = 0, q = 0;
    for (int64_t i = 0; i < pass.word_counts[row]; ++i, ++word) {
      EXPECT(pass.p[word] > 0 || rows.lengths[row] == 0);
      p += pass.p[word];
      q += pass.q[word];
    }
    EXPECT(p == (exact ? 0 : rows.lengths[row]));
    EXPECT(q == pass.target_counts[row]);
    target += static_cast<size_t>(pass.target_counts[row]);
  }
  EXPECT(target == pass.target.size() && word == pass.p.size() && word == pass.q.size());
}

// Rows worked out by hand: ids, and (p, q) of every word.
void test_examples() {
  struct Example {
    std::vector<int64_t> row;
    std::string parts;  // '|' between parts
    std::vector<int64_t> p, q;
  };
  const Example examples[] = {
      {{0, 1}, "a| b", {1, 1}, {1, 1}},
      {{0, 1, 0}, "a| ba", {1, 2}, {1, 2}},
      {{2, 1}, "c| d| b", {1, 1}, {2, 1}},         // a token that spans two words joins them
      {{0, 3, 0}, "a| a", {1, 2}, {1, 1}},         // a space of its own belongs to the next word
      {{0, 3, 1}, "a  b", {3}, {2}},               // two spaces are no cut
      {{0, 4, 1}, "a| b", {1, 2}, {1, 1}},         // nor does an empty token end a word
      {{5, 6, 1}, "\xC3\xA9| b", {2, 1}, {2, 1}},  // a character in two tokens
      {{5, 1}, "\xEF\xBF\xBD b", {2}, {4}},        // half a character
      {{0, 12, 12}, "a\xEF\xBF\xBD\xEF\xBF\xBD", {3}, {7}},
      {{7, 1}, "\xE4\xB8\xAD b", {2}, {4}},  // not a neighbour: no cut
      {{}, "", {}, {}},
      {{4}, "", {1}, {0}},
  };
  for (const Example& example : examples) {
    Retokenizer retokenizer = make(false);
    Rows rows{example.row,
              {static_cast<int64_t>(example.row.size())},
              static_cast<int64_t>(example.row.size())};
    const Pass pass = settle(retokenizer, rows, 1);
    std::vector<int64_t> expected;
    bool initial = true;
    for (size_t begin = 0; begin <= example.parts.size();) {
      const size_t end = std::min(example.parts.find('|', begin), example.parts.size());
      for (const int64_t id : target_of(example.parts.substr(begin, end - begin), initial))
        expected.push_back(id);
      initial = false;
      begin = end + 1;
    }
    EXPECT(pass.target == expected);
    EXPECT(pass.p == example.p);
    EXPECT(pass.q == example.q);
  }
}

// Rows that are mostly equal take parts from each other; each alone gives the same.
void test_candidates(bool strip) {
  Retokenizer retokenizer = make(strip);
  for (int round = 0; round < 40; ++round) {
    const int64_t width = 14;
    Rows rows = random_rows(1, width);
    for (int64_t& id : rows.ids) id = static_cast<int64_t>(below(kPieces.size() - 2));
    rows.lengths[0] = 8 + static_cast<int64_t>(below(6));
    const std::vector<int64_t> prompt(rows.ids.begin(), rows.ids.begin() + rows.lengths[0]);
    for (int candidate = 0; candidate < 200; ++candidate) {
      std::vector<int64_t> row = prompt;
      for (size_t edits = below(4); edits > 0; --edits) {
        const size_t at = below(row.size());
        const auto place = row.begin() + static_cast<std::ptrdiff_t>(at);
        if (below(4) == 0 && row.size() > 2) {
          row.erase(place);
        } else if (below(4) == 0 && row.size() < 14) {
          row.insert(place, static_cast<int64_t>(below(kPieces.size())));
        } else {
          row[at] = static_cast<int64_t>(below(kPieces.size()));
        }
      }
      rows.lengths.push_back(static_cast<int64_t>(row.size()));
      row.resize(static_cast<size_t>(width), -99);
      rows.ids.insert(rows.ids.end(), row.begin(), row.end());
    }
    const Pass together = settle(retokenizer, rows, 1);
    size_t target = 0, word = 0;
    for (size_t row = 0; row < rows.lengths.size(); ++row) {
      const auto begin = rows.ids.begin() + static_cast<std::ptrdiff_t>(row) * width;
      const Rows single{{begin, begin + width}, {rows.lengths[row]}, width};
      const Pass alone = settle(retokenizer, single, 1);
      EXPECT(alone.status[0] == together.status[row]);
      EXPECT(alone.target_counts[0] == together.target_counts[row]);
      EXPECT(alone.word_counts[0] == together.word_counts[row]);
      for (const int64_t id : alone.target) EXPECT(together.target[target++] == id);
      for (size_t i = 0; i < alone.p.size(); ++i, ++word) {
        EXPECT(together.p[word] == alone.p[i] && together.q[word] == alone.q[i]);
      }
    }
  }
}

// Parts the encoder knows are never missing, are remembered, and are the same in every thread.
void test_passes_encode_by_themselves() {
  Retokenizer retokenizer = make(false);
  retokenizer.use(toy_encoder(Split::kGpt2, false));
  const Rows rows = random_rows(30000, 8);
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) {
    threads.emplace_back([&] {
      std::vector<int64_t> ids;
      for (const MissingPart& part : retokenizer.process(rows.batch(), 2).missing) {
        EXPECT(!toy_encoder(Split::kGpt2, false)->encode(part.bytes, &ids));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT(retokenizer.size() > 0);
  const Pass one = settle(retokenizer, rows, 1);
  const size_t size = retokenizer.size();
  const Pass again = retokenizer.process(rows.batch(), 3);
  EXPECT(again.missing.empty() && again.target == one.target && again.q == one.q);
  EXPECT(retokenizer.size() == size);
}

void test_threads_change_nothing() {
  Retokenizer retokenizer = make(true);
  const Rows rows = random_rows(30000, 8);
  const Pass one = settle(retokenizer, rows, 1);
  for (const int threads : {2, 3, 7}) {
    const Pass many = retokenizer.process(rows.batch(), threads);
    EXPECT(one.status == many.status && one.target == many.target && one.p == many.p &&
           one.q == many.q && one.target_counts == many.target_counts &&
           one.word_counts == many.word_counts);
  }
}

void test_readers_and_a_writer() {
  Retokenizer retokenizer = make(false);
  const Rows rows = random_rows(500, 6);
  const Pass expected = settle(retokenizer, rows, 1);
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) {
    threads.emplace_back([&, i] {
      for (int round = 0; round < 20; ++round) {
        if (i == 0 && round % 7 == 0) retokenizer.clear();
        while (true) {
          const Pass pass = retokenizer.process(rows.batch(), 2);
          if (pass.missing.empty()) {
            EXPECT(pass.target == expected.target && pass.q == expected.q);
            break;
          }
          fill(retokenizer, pass.missing);
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace

int main() {
  test_every_character();
  test_wrong_bytes();
  test_strip();
  test_cache_against_map();
  test_examples();
  test_rows(false);
  test_rows(true);
  test_candidates(false);
  test_candidates(true);
  test_pieces();
  test_passes_encode_by_themselves();
  test_threads_change_nothing();
  test_readers_and_a_writer();
  return 0;
}
