// UTF-8 and white space as Python has them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

namespace fuse_index::words {

inline bool is_continuation(unsigned char byte) { return (byte & 0xC0) == 0x80; }

// The character whose first byte is at `at`; the text is valid UTF-8.
inline uint32_t character_at(std::string_view text, size_t at) {
  const auto byte = [&](size_t i) {
    return static_cast<uint32_t>(static_cast<unsigned char>(text[at + i]));
  };
  const uint32_t lead = byte(0);
  if (lead < 0x80) return lead;
  if (lead < 0xE0) return (lead & 0x1F) << 6 | (byte(1) & 0x3F);
  if (lead < 0xF0) return (lead & 0x0F) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F);
  return (lead & 0x07) << 18 | (byte(1) & 0x3F) << 12 | (byte(2) & 0x3F) << 6 | (byte(3) & 0x3F);
}

// Where the character begins that ends before `end`; `end` > 0 and the text is valid UTF-8.
inline size_t previous(std::string_view text, size_t end) {
  size_t at = end - 1;
  while (at > 0 && is_continuation(static_cast<unsigned char>(text[at]))) --at;
  return at;
}

inline bool is_ascii(std::string_view text) {
  size_t at = 0;
  for (; at + 8 <= text.size(); at += 8) {
    uint64_t block;
    std::memcpy(&block, text.data() + at, 8);
    if (block & 0x8080808080808080ull) return false;
  }
  for (; at < text.size(); ++at) {
    if (static_cast<unsigned char>(text[at]) >= 0x80) return false;
  }
  return true;
}

// How many bytes from `at` on are one character, or 0: none. Then `*wrong` bytes are to be replaced
// together, the "maximal subpart" that Python and Rust replace by one U+FFFD.
inline size_t character_size(std::string_view text, size_t at, size_t* wrong) {
  const auto byte = [&](size_t i) {
    return i < text.size() ? static_cast<unsigned char>(text[i]) : static_cast<unsigned char>(0);
  };
  const unsigned char lead = byte(at);
  *wrong = 1;
  if (lead < 0x80) return 1;
  if (lead < 0xC2 || lead > 0xF4) return 0;
  if (lead < 0xE0) return is_continuation(byte(at + 1)) ? 2 : 0;
  // What may follow the lead: no overlong forms, no surrogates, nothing beyond U+10FFFF.
  const unsigned char low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  const unsigned char high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  if (byte(at + 1) < low || byte(at + 1) > high) return 0;
  *wrong = 2;
  if (!is_continuation(byte(at + 2))) return 0;
  if (lead < 0xF0) return 3;
  *wrong = 3;
  return is_continuation(byte(at + 3)) ? 4 : 0;
}

// str.isspace of one character, which is what str.strip removes.
inline bool is_space(uint32_t code) {
  return (code >= 0x09 && code <= 0x0D) || (code >= 0x1C && code <= 0x20) || code == 0x85 ||
         code == 0xA0 || code == 0x1680 || (code >= 0x2000 && code <= 0x200A) || code == 0x2028 ||
         code == 0x2029 || code == 0x202F || code == 0x205F || code == 0x3000;
}

struct Span {
  size_t begin;
  size_t end;
};

// What str.strip leaves of a valid text.
inline Span strip(std::string_view text) {
  size_t end = text.size();
  while (end > 0) {
    const size_t at = previous(text, end);
    if (!is_space(character_at(text, at))) break;
    end = at;
  }
  size_t begin = 0;
  while (begin < end && is_space(character_at(text, begin))) {
    ++begin;
    while (begin < end && is_continuation(static_cast<unsigned char>(text[begin]))) ++begin;
  }
  return {begin, end};
}

}  // namespace fuse_index::words
