#include "piece_tests.h"

#include <cstdint>
#include <string>
#include <vector>

#include "expect.h"

namespace fuse_index::words {

std::shared_ptr<PieceEncoder> toy_encoder(Split split, bool lower) {
  PairMerges model;
  for (size_t code = 0; code < 128; ++code) {
    model.inside[code] = model.last[code] = static_cast<int64_t>(code);
  }
  model.last['#'] = -1;
  model.merges = {{'a', 'b', 200}, {200, 'c', 201}, {' ', 'a', 202}};
  return std::make_shared<PieceEncoder>(split, lower, model);
}

void test_pieces() {
  using Ids = std::vector<int64_t>;
  const auto ids = [](const PieceEncoder& encoder, const std::string& text) {
    Ids found{-7};
    if (!encoder.encode(text, &found)) {
      EXPECT(found == Ids{-7});
      return Ids{-1};
    }
    found.erase(found.begin());
    return found;
  };
  const auto gpt2 = toy_encoder(Split::kGpt2, false), clip = toy_encoder(Split::kClip, true);
  EXPECT(ids(*gpt2, "abc") == Ids{201});
  EXPECT((ids(*gpt2, " abc") == Ids{' ', 201}));  // "ab" comes before " a"
  EXPECT((ids(*gpt2, " a") == Ids{202}));
  EXPECT((ids(*gpt2, "a'b") == Ids{'a', '\'', 'b'}));
  EXPECT((ids(*gpt2, "1ab2") == Ids{'1', 200, '2'}));
  EXPECT((ids(*gpt2, "ab's") == Ids{200, '\'', 's'}));
  EXPECT((ids(*clip, " ABC 1").size() == 1));  // two spaces
  EXPECT((ids(*clip, " ABC") == Ids{201}));
  const auto gpt4 = toy_encoder(Split::kGpt4, false), qwen = toy_encoder(Split::kQwen, false);
  EXPECT((ids(*gpt4, " 1234a").size() == 6));
  EXPECT((ids(*gpt4, " a") == Ids{202}));
  EXPECT((ids(*qwen, "!ab") == Ids{'!', 200}));
  EXPECT(ids(*gpt2, "").empty());
  for (const char* odd : {"a b", " ", "a ", "\t", "\x7F", "\xC3\xA9", "a#"}) {
    EXPECT(ids(*gpt2, odd) == Ids{-1});
  }
  EXPECT(ids(*gpt2, std::string(129, 'a')) == Ids{-1});
  EXPECT(ids(*gpt2, std::string(128, 'a')).size() == 128);
  const PieceEncoder words(Split::kBert, true,
                           {{"ab", "a", "!"}, {1, 2, 3}, {"b", "bb"}, {4, 5}, 9, 5});
  EXPECT((ids(words, " AB!abb") == Ids{1, 3, 1, 4}));
  EXPECT((ids(words, "abbb") == Ids{1, 5}));
  EXPECT((ids(words, "ax!") == Ids{9, 3}));
  EXPECT((ids(words, "abbbbb") == Ids{9}));  // longer than 5
}

}  // namespace fuse_index::words
