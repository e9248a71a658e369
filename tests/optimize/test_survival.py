"""Prompts as texts: whether what was scored is what the models would read."""

from __future__ import annotations

import re

import numpy as np
import pytest

from fuse_index.errors import OptionError, PromptError, VocabularyError
from fuse_index.models.boundaries import surround
from fuse_index.objectives import Fluency, ImageSimilarity, TargetContinuation
from fuse_index.optimize import GCG, Budget, Problem, Stop, Term, TokenFilter, optimize
from fuse_index.optimize.survival import PromptCheck
from fuse_index.optimize.tokens import token_texts
from tests.demo_models import START


def test_a_prefix_that_joins_the_first_word_is_found(lm):
    def same(text: str, before: str, after: str = "") -> bool:
        around = surround(lm, before, after)
        return around.reads([text], [lm.words.encode_text(text)])[0]

    assert same(" square", "a small", " here")
    assert lm.words.encode_text(" square") != [
        *lm.words.encode_text(" squ"),
        *lm.words.encode_text("are"),
    ]
    assert not same("are", "a squ")
    assert not same(" squ", "a", "are")


def test_the_check_names_the_model_that_reads_other_tokens(lm, clip, clip_adapter, image):
    terms = [
        Term(Fluency(), lm),
        Term(ImageSimilarity(images=image, suffix="s and more"), clip, clip_adapter),
    ]
    check = PromptCheck(Problem(lm, terms))
    assert not check(check.problem.encode("a red circle"))  # "circles" is one word to CLIP
    assert check.refusals == {clip.name: 1}
    assert not check(check.problem.encode("a red circle"))
    assert check.refusals == {clip.name: 1}, "remembered, and counted once"


def test_the_target_that_follows_is_part_of_the_full_prompt(lm):
    ids = tuple(lm.words.encode_text(" a red squ"))
    joined = Problem(lm, [Term(TargetContinuation(target="are on the left"), lm)])
    apart = Problem(lm, [Term(TargetContinuation(target=" on the left"), lm)])
    assert PromptCheck(apart)(ids)
    assert not PromptCheck(joined)(ids)


def test_what_a_run_keeps_survives_and_is_read_as_scored(problem):
    result = optimize(
        Problem(problem.source, problem.terms), START, method=GCG(search_width=24), budget=Budget(4)
    )
    words = problem.source.words
    for point in result.trajectory:
        assert words.encode_text(words.decode(list(point.ids))) == list(point.ids)


def test_a_prompt_no_candidate_of_which_survives(lm):
    # Single letters in a row are read as longer tokens, whatever swaps a step makes.
    problem = Problem(lm, [Term(Fluency(), lm)], tokens=TokenFilter(allow_pattern="[aresqu]"))
    start = [int(i) for letter in "squaresquaresquare" for i in lm.words.encode_text(letter)]
    with pytest.raises(PromptError) as error:
        optimize(problem, [start], method=GCG(search_width=32, top_k=6))
    assert re.match(r"no candidate of the last \d+ steps survives re-tok", str(error.value))
    assert lm.name in str(error.value)
    assert "check_retokenization" in str(error.value)
    assert error.value.result.text == "squaresquaresquare"
    assert error.value.result.stop is Stop.FAILED


class TestTokenFilter:
    def test_texts_are_those_inside_running_text(self, lm):
        texts = token_texts(lm)
        for id_ in lm.words.encode_text(" circle square"):
            assert texts[id_] in (" circle", " square")

    def test_special_tokens_and_parts_of_characters_are_never_allowed(self, lm):
        allowed = TokenFilter(allow_non_ascii=True).allowed(lm)
        assert not allowed[list(lm.words.backend.special_ids)].any()
        assert not any(allowed[i] and "\ufffd" in text for i, text in enumerate(token_texts(lm)))

    def test_patterns_and_ids(self, lm):
        texts = np.array(token_texts(lm))
        plain = TokenFilter().allowed(lm)
        denied = TokenFilter(deny_pattern="^ c").allowed(lm)
        assert (plain & ~denied).any()
        assert all(text.startswith(" c") for text in texts[plain & ~denied])
        kept = TokenFilter(allow_pattern=" [a-z]+").allowed(lm)
        assert all(text[0] == " " and text[1:].isalpha() for text in texts[kept])
        circle = lm.words.encode_text(" circle")[0]
        assert plain[circle]
        assert not TokenFilter(deny_ids=(circle,)).allowed(lm)[circle]

    def test_whole_words(self, lm):
        texts = np.array(token_texts(lm))
        kept = texts[TokenFilter(words_only=True).allowed(lm)]
        assert " circle" in kept
        assert all(text.strip().isalpha() for text in kept)
        rows = lm.words.encode_words([text.strip() for text in kept])
        assert rows.lengths.tolist() == [1] * len(kept)

    def test_nothing_left_says_what_to_loosen(self, lm):
        with pytest.raises(VocabularyError, match=r"the filters leave none of .* deny less"):
            TokenFilter(allow_pattern="no token is this").allowed(lm)

    def test_broken_pattern_and_foreign_id(self, lm):
        with pytest.raises(OptionError, match=r"deny_pattern '.*'.*expected a regular expression"):
            TokenFilter(deny_pattern="(")
        with pytest.raises(OptionError, match="deny_ids: 99999; expected ids from 0 to"):
            TokenFilter(deny_ids=(99999,)).allowed(lm)

    def test_clip_tokens_can_be_a_source_too(self, clip):
        kept = TokenFilter(words_only=True).allowed(clip)
        assert kept[clip.words.encode_words(["circle"]).values].all()
