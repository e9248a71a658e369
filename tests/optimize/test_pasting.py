"""The loss told is the model's loss on the whole text as people paste it, for every tokenizer."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fuse_index.errors import OptionError
from fuse_index.models.boundaries import surround
from fuse_index.models.surroundings import Surroundings
from fuse_index.objectives import ContinuationDivergence, Fluency, TargetContinuation
from fuse_index.optimize import (
    GCG,
    Budget,
    Problem,
    RandomSearch,
    RunOptions,
    Term,
    optimize,
)
from fuse_index.optimize.survival import PromptCheck
from fuse_index.words.ragged import Ragged
from tests.models.pasting import TOKENIZERS, pasted, tokenizer_of

EVERYDAY = ["a", "brown", "dog", "runs", "over", "the", "green", "two", "children", "play", "near"]
ODD = ["doesn't", "café", "C++", "e-mail", "中文", "x_y", "10:30", "!", "Paris", "(", "it's."]
words = st.lists(st.sampled_from(EVERYDAY), min_size=1, max_size=4).map(" ".join)
odd = st.lists(st.sampled_from([*EVERYDAY, *ODD]), min_size=1, max_size=4).map(" ".join)
prefixes = st.one_of(
    st.sampled_from(["", "User: ", "User:", "A photo of ", "Question:\n", "user\n\n", "(", "a.  "]),
    odd,
    odd.map(lambda text: text + " "),
)
prompts = st.one_of(words, odd, odd.map(lambda text: " " + text), odd.map(lambda text: text + "."))
suffixes = st.one_of(
    st.sampled_from(["", " ", "\n", "\nAnswer:", "\nAnswer: ", ". ", "!", "'s", "\n\nassistant\n"]),
    odd.map(lambda text: " " + text),
    words,
)
targets = st.one_of(
    st.sampled_from([" yes", "yes", "!", "\nSure, here", "\n\n1. a", " "]),
    odd.map(lambda text: " " + text),
)


def library_tokens(name: str, text: str) -> list[int]:
    """The tokens that transformers gives a text, without a mark of its end."""
    tokenizer = tokenizer_of(name)
    options = {} if name == "byt5" else {"split_special_tokens": True}
    ids: list[int] = tokenizer(text, **options)["input_ids"]
    bare = tokenizer("a", **options)["input_ids"]
    tail = len(bare) - len(pasted(name).words.encode_text("a")) - len(pasted(name).frame.head)
    return ids[: len(ids) - tail]


def library_loss(name: str, text: str, wanted: int) -> float:
    """The mean loss of the last tokens of a text, by transformers alone."""
    ids = torch.tensor([library_tokens(name, text)])
    labels = ids.clone()
    labels[:, : ids.shape[1] - wanted] = -100
    with torch.no_grad():
        return float(pasted(name).module(ids, labels=labels).loss)


def target_size(name: str, text: str, target: str) -> int | None:
    """How many tokens of a text reach into its target; None where offsets do not tell."""
    tokenizer = tokenizer_of(name)
    if not tokenizer.is_fast:
        return None
    found = tokenizer(text, return_offsets_mapping=True, split_special_tokens=True)
    return sum(end > len(text) - len(target) for _, end in found["offset_mapping"])


def has_target(name: str, suffix: str, target: str) -> bool:
    """Whether tokens of a target can be told apart; if not, the message says why."""
    model = pasted(name)
    try:
        TargetContinuation(suffix=suffix, target=target).prepare(model)
    except OptionError as error:
        message = str(error)
    else:
        return True
    if "has no tokens" in message:
        first, both = model.words.encode_text("a"), model.words.encode_text(f"a{target}")
        assert both == first
    else:
        assert "shares a token with the text before it" in message
        assert suffix
        assert not target[0].isspace()
    return False


def check_law(name: str, prefix: str, prompt: str, suffix: str, target: str) -> str:
    """Check the law for one prompt; say what became of it."""
    if not has_target(name, suffix, target):
        return "no target"
    model = pasted(name)
    objective = TargetContinuation(prefix=prefix, suffix=suffix, target=target)
    problem = Problem(model, [Term(objective, model)])
    ids = problem.encode(prompt)
    (full,) = problem.full_texts(ids).values()
    assert full == prefix + problem.decode(ids) + suffix + target
    around = problem.losses[0].surroundings
    whole = library_tokens(name, full)
    scored = [*model.frame.head, *around.before, *ids, *around.after]
    if not PromptCheck(problem)(ids):
        assert whole != scored, "refused, though it reads as it is scored"
        return "refused"
    assert whole == scored
    assert target_size(name, full, target) in (None, len(around.target_ids))
    told = float(problem.losses[0].score([list(ids)]))
    assert told == pytest.approx(library_loss(name, full, len(around.target_ids)), abs=1e-4)
    return "ok"


def count_law(name: str, examples: int) -> Counter[str]:
    counts: Counter[str] = Counter()

    @settings(max_examples=examples, database=None)
    @given(prefixes, prompts, suffixes, targets)
    def law(prefix: str, prompt: str, suffix: str, target: str) -> None:
        counts[check_law(name, prefix, prompt, suffix, target)] += 1

    law()
    return counts


@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_loss_told_is_that_of_the_pasted_text(name: str) -> None:
    counts = count_law(name, 6)
    assert counts["ok"] >= 2, counts


@pytest.mark.slow
@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_loss_told_is_that_of_the_pasted_text_over_many(name: str) -> None:
    counts = count_law(name, 2000 // 12)
    assert counts["ok"] > 0.6 * counts.total(), counts


@pytest.mark.parametrize("name", TOKENIZERS)
def test_nothing_is_refused_where_words_stand_apart(name: str) -> None:
    """Everyday words between texts that begin and end with white space or marks always stand."""
    model = pasted(name)
    for prefix in ("", "User: ", "A photo of"):
        for suffix, target in (("", " the dog"), ("\nAnswer:", " the dog")):
            term = Term(TargetContinuation(prefix=prefix, suffix=suffix, target=target), model)
            problem = Problem(model, [term])
            check = PromptCheck(problem)
            assert [text for text in EVERYDAY if not check(problem.encode(text))] == []


@pytest.mark.parametrize("target", ["gpt2", "llama", "gemma", "t5", "bert-cased"])
@pytest.mark.parametrize("source", ["gpt2", "llama", "clip"])
def test_models_with_other_tokens_read_the_same_text(source: str, target: str) -> None:
    writer, reader = pasted(source), pasted(target)
    for prefix in ("", "Say: ", "Say:\n", "Say"):
        goal = TargetContinuation(prefix=prefix, suffix="\nso:", target=" the dog")
        own = Fluency(prefix="User: ")
        problem = Problem(writer, [Term(goal, reader), Term(own, writer)])
        check = PromptCheck(problem)
        for text in ("two dogs", "the grass runs"):
            ids = problem.encode(text)
            full = problem.full_texts(ids)["continuation"]
            if source != target:
                assert full == f"{prefix}{problem.decode(ids)}\nso: the dog"
            content = problem.targets[0].read(Ragged.from_lists([list(ids)])).contents
            around = problem.losses[0].surroundings
            if check(ids):
                told = float(problem.losses[0].score(content))
                true = library_loss(target, full, len(around.target_ids))
                assert told == pytest.approx(true, abs=1e-4)
            else:  # the text of the source joins the last word of the prefix
                assert prefix == "Say"
                assert not problem.decode(ids).startswith(" ")


def test_byte_level_tokens_are_those_of_the_parts() -> None:
    model = pasted("gpt2")
    encode = model.words.encode_text
    for prefix, suffix, target in (("User: ", "\nAnswer:", " yes"), ("say", " so", " the dog")):
        around = surround(model, prefix, suffix, target)
        assert list(around.before) == encode(prefix)
        assert list(around.after) == encode(suffix) + encode(target)
        assert list(around.target_ids) == encode(target)


@pytest.mark.parametrize(
    ("name", "prefix", "text"),
    [
        ("llama", "", "dogs run"),
        ("llama", "Say:", " dogs run"),
        ("llama", "Say: ", "dogs run"),
        ("gemma", "", " dogs run"),
        ("gemma", "Say: ", "dogs run"),
        ("gpt2", "Say:", " dogs run"),
        ("gpt2", "Say: ", " dogs run"),
        ("bert-cased", "Say", " dogs run"),
        ("clip", "say ", "dogs run"),
    ],
)
def test_prompts_have_the_space_that_their_tokens_have(name: str, prefix: str, text: str) -> None:
    model = pasted(name)
    problem = Problem(model, [Term(Fluency(prefix=prefix), model)])
    assert problem.decode(problem.encode("dogs run")) == text
    assert problem.encode(text) == problem.encode("dogs run")


def test_a_space_behind_the_suffix_goes_to_the_target() -> None:
    model = pasted("llama")
    apart, joined = (
        surround(model, "a", "\nso:", " the dog"),
        surround(model, "a", "\nso: ", "the dog"),
    )
    assert apart.after == joined.after
    assert apart.target_ids == joined.target_ids
    assert len(joined.target_ids) < len(joined.after)


def test_of_two_spaces_behind_the_suffix_one_goes_to_the_target() -> None:
    model = pasted("mistral")
    around = surround(model, "a", "\nso:  ", "the dog")
    alone = surround(model, "a", "\nso:", " the dog")
    assert around.target_ids == alone.target_ids
    assert model.words.decode(around.after[: -len(around.target_ids)]).endswith("so: ")


def test_what_cannot_be_is_refused_in_one_line() -> None:
    model = pasted("gpt2")
    with pytest.raises(
        OptionError, match="gpt2: 'wn dog' shares a token with the text before it, ' bro'; expected"
    ):
        TargetContinuation(suffix=" bro", target="wn dog").prepare(model)
    with pytest.raises(OptionError, match=r"bert-cased: text ' ' has no tokens; expected a text"):
        TargetContinuation(target=" ").prepare(pasted("bert-cased"))
    with pytest.raises(OptionError, match="'bro' shares a token with the text around it"):
        ContinuationDivergence(reference="bro", text="wn dog").prepare(model)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma", "t5", "bert-cased"])
def test_a_run_tells_the_whole_text(name: str) -> None:
    model = pasted(name)
    goal = TargetContinuation(prefix="User: ", suffix="\nso:", target=" the dog")
    problem = Problem(model, [Term(goal, model)])
    method = GCG(search_width=16, top_k=8)
    result = optimize(problem, "a brown dog", method=method, budget=Budget(3))
    full = f"User: {result.text}\nso: the dog"
    assert result.full_texts == {"continuation": full}
    size = len(problem.losses[0].surroundings.target_ids)
    assert result.total == pytest.approx(library_loss(name, full, size), abs=1e-4)
    assert type(result).from_json(result.to_json()).full_texts == result.full_texts


def test_an_initial_prompt_that_reads_otherwise_is_not_the_result(caplog: Any) -> None:
    """Its loss is that of tokens that no text has."""
    model = pasted("llama")
    problem = Problem(model, [Term(TargetContinuation(target="wn dog"), model)])
    dog = problem.encode("a bro")
    assert not PromptCheck(problem)(dog)
    options = {"method": GCG(search_width=48, top_k=24), "budget": Budget(2)}
    result = optimize(problem, [dog], **options)
    assert PromptCheck(problem)(result.ids)
    assert not caplog.text
    one = {**options, "method": RandomSearch(search_width=1), "budget": Budget(1)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PromptCheck, "__call__", lambda _self, _ids: False)
        kept = optimize(problem, [dog], **one)
    assert kept.ids == dog
    assert "initial prompt 'a bro' reads in other tokens than were scored" in caplog.text
    loose = optimize(problem, [dog], options=RunOptions(check_retokenization=False), **options)
    assert loose.total <= loose.trajectory[0].total


def test_surroundings_around_nothing_are_the_frame() -> None:
    around = surround(pasted("mistral"))
    assert isinstance(around, Surroundings)
    row = pasted("mistral").words.encode_text("two dogs")
    assert around.batch([row]).ids[0].tolist() == library_tokens("mistral", "two dogs")
    assert around.full_text("two dogs") == "two dogs"
