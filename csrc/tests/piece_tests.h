// Tests of the piece encoder, and a small one for other tests.
#pragma once

#include <memory>

#include "../words/piece_encoder.h"

namespace fuse_index::words {

// Characters are their codes, "#" has none at a piece's end; "ab" is 200, "abc" 201 and " a" 202,
// the earlier merges first.
std::shared_ptr<PieceEncoder> toy_encoder(Split split, bool lower);

void test_pieces();

}  // namespace fuse_index::words
