"""Source tokens in a target's own tokens, and the words that source tokens are in."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fuse_index.objectives import ClassifierLabel
from fuse_index.optimize import Problem, Term, Unit
from fuse_index.predict.own_tokens import OwnTokens, word_spans
from fuse_index.predict.target import Target
from fuse_index.words.ragged import Ragged


@pytest.fixture(scope="module")
def target(lm, sentiment) -> Target:
    """From byte-level BPE to WordPiece."""
    return Target(lm, sentiment)


def id_of(lm, text: str) -> int:
    """The source token of a text, after a space if it begins with one."""
    (row,) = (lm.words.encode_running([text[1:]]) if text[0] == " " else None,)
    if row is not None:
        return int(row[0][0])
    return next(i for i in range(lm.vocabulary_size) if lm.words.token(i) == text)


def spelled(own: OwnTokens, index: torch.Tensor) -> list[list[str]]:
    words = own.target.model.words
    return [[words.token(i) for i in own.rows[row].tolist()] for row in index.tolist()]


@pytest.mark.smoke
def test_a_token_begins_a_word_or_continues_one(lm, target):
    texts = [" hoop", "ure", "cent", "&"]
    own = OwnTokens.of(target, np.array([id_of(lm, text) for text in texts]))
    assert spelled(own, own.inside) == [["hoop"], ["##ure"], ["##c", "##ent"], ["[UNK]"]]
    assert spelled(own, own.first) == [["hoop"], ["u", "##re"], ["cent"], ["[UNK]"]]
    assert len(own.rows) == 6  # each once


def test_a_token_that_the_target_does_not_read_gets_the_mean(lm, target):
    own = OwnTokens.of(target, np.array([id_of(lm, " hoop"), id_of(lm, "Ġ")]))
    assert own.inside.tolist() == own.first.tolist() == [0, 1]
    assert len(own.rows) == 1
    sums = torch.randn(2, target.model.width, generator=torch.Generator().manual_seed(0))
    found = own.by_embedding(sums, np.array([False, True]))
    (token,) = own.rows[0].tolist()
    expected = sums @ target.model.table()[token].float()
    torch.testing.assert_close(found, expected[:, None].expand(2, 2), rtol=1e-4, atol=1e-6)


def test_the_beginning_of_a_prompt_has_rows_of_its_own(lm, target):
    own = OwnTokens.of(target, np.array([id_of(lm, "cent")]))
    scores = torch.tensor([[1.0, 2.0], [3.0, 5.0]])
    row = int(own.inside), int(own.first)
    assert sorted(row) == [0, 1]
    found = own._of_tokens(scores, np.array([False, True]))
    assert found.tolist() == [[float(scores[0, row[0]])], [float(scores[1, row[1]])]]


def test_the_sources_own_tokens_are_themselves(lm):
    ids = np.array([5, 9, 7])
    own = OwnTokens.of(Target(lm, lm), ids)
    assert own.rows.to_lists() == [[5], [9], [7]]
    sums = torch.randn(1, lm.width, generator=torch.Generator().manual_seed(0))
    found = own.by_embedding(sums, np.array([True]))
    torch.testing.assert_close(found, sums @ lm.table()[ids].T, rtol=1e-4, atol=1e-5)


def test_a_position_has_the_tokens_of_its_word(lm, target):
    text = "the gorgeous circle"
    prompts = Ragged.from_lists([[], *lm.words.encode_running(["a circle", text]).to_lists()])
    read = target.read(prompts)
    rows = target.model.words.encode_words(text.split())
    size = len(prompts[2])
    found = word_spans(read, prompts, np.array([[2, at] for at in range(size)] + [[1, 1]]))
    word_of = np.repeat([0, 1, 2], lm.words.encode_words(text.split()).lengths)
    expected = np.stack([rows.offsets[word_of], rows.offsets[word_of + 1]], axis=1)
    assert size > 3
    assert found[:-1].tolist() == expected.tolist()
    assert found[-1].tolist() == [1, int(read.contents.lengths[1])]
    same = word_spans(Target(lm, lm).read(prompts), prompts, np.array([[2, 1], [1, 0]]))
    assert same.tolist() == [[1, 2], [0, 1]]


def test_units_look_their_tokens_up_once(lm, sentiment):
    problem = Problem(lm, [Term(ClassifierLabel(label="positive"), sentiment)])
    units, target = problem.units(Unit.TOKEN), problem.targets[0]
    own = units.own(target)
    assert units.own(target) is own
    assert units.run_for(target) is own.rows
    seen: list[tuple[int, int]] = []
    units.prepare(target, lambda done, whole: seen.append((done, whole)))
    assert seen[-1] == (4 * len(own.rows), 4 * len(own.rows))
    assert own.states().shape == (
        len(own.rows),
        (len(sentiment.layers) + 1) * sentiment.width,
    )
    assert own.states() is own.states()
