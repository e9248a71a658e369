"""Hidden states of units, averaged over contexts: against passes of every unit alone."""

from __future__ import annotations

import pytest
import torch

from fuse_index.errors import OptionError
from fuse_index.models import Model
from fuse_index.predict.states import Contexts, hidden_states, states_cost
from fuse_index.words.ragged import Ragged

WORDS = ["circle", "triangle", "gorgeous", "left", "purple", "above"]


def states_of(model: Model, before: list[int], word: list[int], behind: list[int]) -> torch.Tensor:
    """The word's states in one context, by its own hooks: the layers one after another."""
    batch = model.batch([[*before, *word, *behind]])
    begin = batch.start + len(before)
    found: list[torch.Tensor] = []
    handles = [
        layer.register_forward_pre_hook(
            lambda _, args, kwargs: found.append(args[0] if args else kwargs["hidden_states"]),
            with_kwargs=True,
        )
        for layer in model.layers
    ]
    last = model.layers[-1].register_forward_hook(
        lambda _, args, output: found.append(output[0] if isinstance(output, tuple) else output)
    )
    with torch.no_grad():
        model.forward(model.embed(batch.ids), batch)
    for handle in [*handles, last]:
        handle.remove()
    return torch.cat([own[0, begin : begin + len(word)].mean(0) for own in found])


@pytest.mark.parametrize("texts", [(), ("a large red circle", "left"), ("",)])
def test_they_are_the_states_averaged_over_contexts(clip, texts):
    tokens = clip.words.encode_words([*WORDS, "extraordinarily"])
    contexts = Contexts(count=3, words=2, texts=texts)
    found = hidden_states(clip, tokens, contexts)
    drawn = contexts.draw(clip)
    for row, word in enumerate(tokens):
        states = [states_of(clip, before, word.tolist(), behind) for before, behind in drawn]
        torch.testing.assert_close(found[row], torch.stack(states).mean(0), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("words", [0, 3])
def test_a_causal_model_runs_what_stands_before_once(lm, words):
    """The pass stops behind the last layer; no state depends on what stands behind a unit."""
    tokens = lm.words.encode_words([*WORDS, "extraordinarily"])
    contexts = Contexts(count=2, words=words)
    found = hidden_states(lm, tokens, contexts)
    for row, word in enumerate(tokens):
        states = [
            states_of(lm, before, word.tolist(), behind) for before, behind in contexts.draw(lm)
        ]
        torch.testing.assert_close(found[row], torch.stack(states).mean(0), atol=1e-4, rtol=1e-4)


def test_a_unit_that_leaves_a_causal_model_no_room_for_its_context(lm):
    word = lm.words.encode_words(WORDS[:1])[0].tolist()
    long = (word * lm.positions)[: lm.positions - len(lm.frame.head)]
    found = hidden_states(lm, Ragged.from_lists([long]), Contexts(count=1, words=3))
    torch.testing.assert_close(found[0], states_of(lm, [], long, []), atol=1e-4, rtol=1e-4)


def test_contexts_are_words_of_the_vocabulary_whatever_the_units(clip):
    drawn = Contexts(count=2, words=3).draw(clip)
    assert drawn == Contexts(count=2, words=3).draw(clip)
    assert drawn != Contexts(count=2, words=3, seed=1).draw(clip)
    words = [
        clip.words.decode([token]).strip() for pair in drawn for side in pair for token in side
    ]
    assert len(words) == 12
    assert all(word.isalpha() for word in words)
    assert clip.words.encode_words(words).lengths.tolist() == [1] * 12


def test_contexts_fit_the_positions(clip):
    tokens = clip.words.encode_words(WORDS)
    long = Contexts(count=2, words=200)
    assert len(long.draw(clip)[0][0]) >= 200
    assert hidden_states(clip, tokens, long).shape[0] == len(WORDS)


@pytest.mark.parametrize("given", [{"count": 0}, {"words": -1}, {"seed": -1}])
def test_contexts_out_of_range_are_refused(given):
    with pytest.raises(OptionError, match=f"contexts: {next(iter(given))}="):
        Contexts(**given)


def test_progress_counts_words_of_all_contexts(clip):
    seen: list[tuple[int, int]] = []
    tokens = clip.words.encode_words(WORDS)
    hidden_states(clip, tokens, Contexts(count=3), lambda *given: seen.append(given))
    assert seen[-1] == (3 * len(WORDS), 3 * len(WORDS))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_the_cost_is_told(clip):
    size = 4 * 500 * (len(clip.layers) + 1) * clip.width
    assert states_cost(clip, 500, Contexts(count=2)) == (size, 1000)
